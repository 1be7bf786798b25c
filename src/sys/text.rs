//! Small kernel text files, whole.
