//! The words of a line as bash divides it, and candidates as bash inserts them.
//!
//! bash hands a line to a completion function, and replaces only the part of the last word that
//! follows one of `COMP_WORDBREAKS`. It inserts a candidate unchanged, so the candidate is quoted
//! here as the word is.

use std::ffi::OsString;

use clap_complete::engine::CompletionCandidate;

/// Characters that bash takes for more than themselves.
const SPECIAL: &str = " \t\n\\'\"`$&|;<>()*?[]{}~#!";

/// The candidates in the form in which bash inserts them, each in a line. The arguments are the line
/// up to the cursor, and the part of its last word that bash replaces.
pub(super) fn candidates(
    arguments: &[OsString],
    find: &dyn Fn(Vec<OsString>) -> Vec<CompletionCandidate>,
) -> String {
    let argument = |index: usize| arguments.get(index).and_then(|text| text.to_str());
    // Text that is not UTF-8 has no candidates.
    let (Some(line), Some(part)) = (argument(0), argument(1)) else { return String::new() };
    let line = SplitLine::new(line);
    let kept = line.raw.strip_suffix(part).unwrap_or("");
    let found = find(line.words.iter().map(OsString::from).collect());
    let texts = found.iter().map(|found| quoted(&found.get_value().to_string_lossy(), line.quote));
    let lines = texts.map(|text| text.strip_prefix(kept).unwrap_or(&text).to_owned() + "\n");
    lines.collect()
}

/// A line up to the cursor.
#[derive(Debug, Default)]
struct SplitLine {
    /// The words, without quotes. The last one is at the cursor, and may be empty.
    words: Vec<String>,
    /// The last word as it is written, after the quote in which it is.
    raw: String,
    /// The quote in which the cursor is.
    quote: Option<char>,
}

impl SplitLine {
    fn new(line: &str) -> Self {
        let mut split = Self { words: vec![String::new()], ..Self::default() };
        let mut is_in_word = false;
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match (character, split.quote) {
                (' ' | '\t' | '\n', None) if is_in_word => {
                    split.words.push(String::new());
                    split.raw.clear();
                    is_in_word = false;
                    continue;
                }
                (' ' | '\t' | '\n', None) => continue,
                (quote @ ('\'' | '"'), None) => {
                    split.quote = Some(quote);
                    split.raw.clear();
                }
                (quote, Some(open)) if quote == open => split.quote = None,
                ('\\', None | Some('"')) => {
                    let escaped = characters.next();
                    split.raw.extend([character].into_iter().chain(escaped));
                    split.add(escaped);
                }
                _ => {
                    split.raw.push(character);
                    split.add([character]);
                }
            }
            is_in_word = true;
        }
        split
    }

    fn add(&mut self, characters: impl IntoIterator<Item = char>) {
        if let Some(word) = self.words.last_mut() {
            word.extend(characters);
        }
    }
}

/// A text as it is written in a word with this quote. bash closes the quote itself.
fn quoted(text: &str, quote: Option<char>) -> String {
    let is_special = |character: char| match quote {
        None => SPECIAL.contains(character),
        Some('"') => "\\\"`$".contains(character),
        Some(_) => false,
    };
    let mut quoted = String::new();
    for character in text.chars() {
        quoted.extend(is_special(character).then_some('\\'));
        quoted.push(character);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str, part: &str, found: &[&str]) -> (Vec<String>, String) {
        let words = std::cell::RefCell::new(Vec::new());
        let text = candidates(&[line.into(), part.into()], &|given| {
            *words.borrow_mut() =
                given.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            found.iter().map(CompletionCandidate::new).collect()
        });
        (words.into_inner(), text)
    }

    #[test]
    fn words_are_those_of_the_shell() {
        for (line, expected) in [
            ("ipcctl ", &["ipcctl", ""][..]),
            ("ipcctl  send\tlo", &["ipcctl", "send", "lo"]),
            ("ipcctl send 'a b' \"c d\" e\\ f", &["ipcctl", "send", "a b", "c d", "e f"]),
            ("ipcctl recv 'logs.", &["ipcctl", "recv", "logs."]),
            ("ipcctl recv '' x", &["ipcctl", "recv", "", "x"]),
            ("ipcctl recv \\", &["ipcctl", "recv", ""]),
        ] {
            assert_eq!(complete(line, "", &[]).0, expected, "{line}");
        }
    }

    #[test]
    fn candidates_are_quoted_and_cut_as_bash_inserts_them() {
        for (line, part, found, expected) in [
            ("ipcctl recv lo", "lo", "logs.>", "logs.\\>\n"),
            ("ipcctl recv 'lo", "lo", "logs.>", "logs.>\n"),
            ("ipcctl recv \"lo", "lo", "logs.$x", "logs.\\$x\n"),
            ("ipcctl send @ti", "ti", "@till", "till\n"),
            ("ipcctl send @ti", "@ti", "@till", "@till\n"),
            ("ipcctl --via tcp://127", "//127", "tcp://127.0.0.1:1", "//127.0.0.1:1\n"),
            ("ipcctl --via=un", "un", "--via=unix", "unix\n"),
            ("ipcctl send x'@ti", "@ti", "@till", "@till\n"),
        ] {
            assert_eq!(complete(line, part, &[found]).1, expected, "{line}");
        }
    }
}
