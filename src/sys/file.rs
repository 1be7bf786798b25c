//! Files: opening without symlinks, unnamed files and their publication, file system facts.
