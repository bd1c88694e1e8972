//! The interests of all workers, in memory that the supervisor writes and every worker reads.
//!
//! There is one table for the whole daemon. A worker looks its routes up in it, so that a
//! subscription is in force for every message that is accepted after the table has it, and no
//! worker has to confirm anything. Nothing here waits: neither the writer for a reader, nor a
//! reader for the writer, even if the other one is stopped.
//!
//! **Writing.** [`InterestTable`] links and unlinks an entry by one store. It announces a change
//! (`VERSION`) when it is complete. It gives memory a new meaning only after it has announced that
//! (`REUSES`).
//!
//! **Reading.** A look-up ([`InterestView::find`]) that began before such an announcement may stand
//! on memory with a new meaning. It checks every offset, so that it comes to an end, and starts
//! again if `REUSES` has changed meanwhile. So a result holds the entries of some moment between the
//! beginning and the end of the look-up. A route that is remembered under an earlier `VERSION` is
//! looked up again.
//!
//! **Finding.** Entries are hashed by the text of their filter. The table knows the *patterns* of
//! its filters: the number of tokens, the places of `*`, and whether `>` follows. For each pattern,
//! at most one filter text matches a subject, and one look at a hash bucket finds it. The number of
//! patterns is limited, and so is the work of a look-up, whatever filters peers choose.

mod layout;
mod table;
mod view;

pub(crate) use layout::FilterPattern;
pub use layout::SharedWords;
pub(crate) use table::InterestTable;
pub(crate) use view::{FoundInterest, InterestView};
