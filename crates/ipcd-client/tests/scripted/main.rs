//! The client against a daemon that follows a test's script to the letter.

mod fake;
mod losses;
mod receipts;
mod requests;
mod waiting;
