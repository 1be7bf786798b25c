//! Layouts of other times: the images of every version that ever was, and what a future one may bring.
//!
//! `images/MAJOR.MINOR/KIND.txt` is the memory of a segment with one object, as a program of that layout
//! left it when it was killed at work. Today's library must open each of them, receive what was sent,
//! take the places over and go on. Images are never changed. Whoever makes a new version of the layout
//! adds its images, with
//!
//! ```text
//! cargo test --test upgrade -- --ignored write_the_images
//! ```
//!
//! which writes those of the present version that are not there. There has been one version so far.
//!
//! Headers from the future, bit by bit: `segments_from_the_future_are_left_alone_listed_and_removed`
//! in `segment/bad_input.rs`.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
mod common;

mod future;
mod images;
mod kinds;
