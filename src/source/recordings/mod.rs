//! Recording files in folders of the PBX. Nothing here knows of calls: it says which files are complete, and what their
//! names tell. Nothing is ever written, moved or deleted.

mod folder; // folders walked and files opened without following a link
mod index; // which files are complete
mod name; // what a file name tells
mod watch; // changes as hints

pub use folder::{Folder, Place, Stat, Unreadable};
pub use index::{Index, Limits};
pub use name::{Began, Hints, hints, same_number};
pub use watch::Watch;
