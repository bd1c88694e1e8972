//! The answers that a client waits for, in the order of its operations.
//!
//! PONG says that all earlier operations are in force. The router acknowledges a subscription only
//! when all workers know of it, perhaps after later frames, so that answers have to wait.

use std::collections::VecDeque;

/// The answer to an operation of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AnswerText {
    /// Nothing: later answers wait for it.
    Nothing,
    /// `+OK`.
    Ok,
    /// `PONG`.
    Pong,
}

#[derive(Debug)]
struct Answer {
    /// The number of the frame whose ACK it waits for.
    on: u64,
    /// The number of the message that it is about, if it is about one.
    about: u64,
    text: AnswerText,
    is_due: bool,
}

/// The answers.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<Answer>);

impl Answers {
    /// Adds an answer that is due with the ACK of this number.
    pub(super) fn push(&mut self, on: u64, text: AnswerText, about: u64) {
        self.0.push_back(Answer { on, about, text, is_due: false });
    }

    /// Notes that a message was refused: its client has been told that instead.
    pub(super) fn refuse(&mut self, message: u64) {
        if let Some(answer) = self.0.iter_mut().find(|answer| answer.about == message) {
            answer.text = AnswerText::Nothing;
        }
    }

    /// Notes that this frame was refused.
    pub(super) fn give_up(&mut self, on: u64) {
        if let Some(answer) = self.0.iter_mut().find(|answer| answer.on == on) {
            (answer.text, answer.is_due) = (AnswerText::Nothing, true);
        }
    }

    /// Notes an ACK.
    pub(super) fn note(&mut self, on: u64) {
        // Mostly it is the first.
        if let Some(answer) = self.0.iter_mut().find(|answer| !answer.is_due && answer.on == on) {
            answer.is_due = true;
        }
    }

    /// Takes the next answer that is due.
    pub(super) fn next(&mut self) -> Option<AnswerText> {
        self.0.pop_front_if(|answer| answer.is_due).map(|answer| answer.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_the_order_of_the_operations() {
        let mut answers = Answers::default();
        answers.push(1, AnswerText::Nothing, 0);
        answers.push(2, AnswerText::Pong, 0);
        answers.push(4, AnswerText::Ok, 3);
        answers.note(2);
        assert_eq!(answers.next(), None);
        answers.refuse(3);
        answers.note(4);
        answers.note(1);
        let all: Vec<_> = std::iter::from_fn(|| answers.next()).collect();
        assert_eq!(all, [AnswerText::Nothing, AnswerText::Pong, AnswerText::Nothing]);
        answers.push(5, AnswerText::Ok, 0);
        answers.give_up(5);
        assert_eq!((answers.next(), answers.next()), (Some(AnswerText::Nothing), None));
    }
}
