//! Open-file-description locks: facts about who lives, held by the kernel.
