//! `pipe:COMMAND`: a child process whose standard input and output are the channel.
//!
//! One that speaks frames belongs to its channel, and ends with it. A raw one is only started here:
//! its parts can be handed over, and the process that adopts them reaps it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use ipcd_sys::inherited::{CommandPlace, has_terminal, prepare};
use ipcd_transport::{
    Channel, ChannelParts, Endpoint, EnvVariable, Error, PeerIdentity, RawChannel, ReadBuffer,
    ReadOutcome, Result, StreamChannel, WriteOutcome,
};

/// The state in the parts of a channel to a raw child.
const BARE: &[u8] = b"child";

/// Starts the command, which is split into words at white space; quotes hold words together, and
/// no shell sees it.
pub(crate) fn spawn(endpoint: &Endpoint) -> Result<Box<dyn Channel>> {
    let (child, stream) = start(command(endpoint)?, CommandPlace::Ours, false)?;
    Ok(Box::new(ChildChannel { stream: Some(stream), child }))
}

/// Starts the command with these variables: where it can ask at our terminal if we have that, as ssh
/// does for a password, else without one, as the leader of a session of its own.
pub(crate) fn spawn_raw(endpoint: &Endpoint, variables: &[EnvVariable]) -> Result<ChannelParts> {
    let mut command = command(endpoint)?;
    let place = if has_terminal() { CommandPlace::Ours } else { CommandPlace::Session };
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let (_, stream) = start(command, place, true)?;
    Ok(ChannelParts { state: BARE.to_vec(), ..Box::new(stream).into_parts() })
}

/// The channel of what [`spawn_raw`] returned.
pub(crate) fn adopt_raw(parts: ChannelParts) -> Result<RawChannel> {
    let child = if parts.state == BARE { parts.identity.pid } else { None };
    let stream = StreamChannel::adopt(parts)?;
    Ok(RawChannel { child, ..RawChannel::stream(Box::new(stream)) })
}

fn command(endpoint: &Endpoint) -> Result<Command> {
    let words = words(endpoint)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

fn start(mut command: Command, place: CommandPlace, kept: bool) -> Result<(Child, StreamChannel)> {
    prepare(&mut command, place, kept);
    let started = command.spawn().map_err(|error| {
        Error::system(format!("start {}", command.get_program().display()), error)
    });
    let mut child = started?;
    let identity = PeerIdentity { pid: Some(child.id()), ..PeerIdentity::default() };
    let read = OwnedFd::from(child.stdout.take().expect("its standard output is a pipe"));
    let write = OwnedFd::from(child.stdin.take().expect("its standard input is a pipe"));
    Ok((child, StreamChannel::pair(read, write, identity)?))
}

/// A stream to a child, which is reaped when the channel is dropped.
struct ChildChannel {
    stream: Option<StreamChannel>,
    child: Child,
}

impl ChildChannel {
    fn stream(&self) -> &StreamChannel {
        self.stream.as_ref().expect("it is taken only when the channel ends")
    }

    fn stream_mut(&mut self) -> &mut StreamChannel {
        self.stream.as_mut().expect("it is taken only when the channel ends")
    }
}

impl Channel for ChildChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.stream().read_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.stream().write_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        self.stream().identity()
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        self.stream_mut().read(into)
    }

    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome> {
        self.stream_mut().write(frames)
    }

    fn finish(&mut self) -> Result<()> {
        self.stream_mut().finish()
    }

    fn into_parts(mut self: Box<Self>) -> ChannelParts {
        let stream = self.stream.take().expect("it is taken only when the channel ends");
        Box::new(stream).into_parts()
    }
}

impl Drop for ChildChannel {
    /// The end of its input tells the child to stop. One that does not is killed, so that no call
    /// waits for it.
    fn drop(&mut self) {
        if self.stream.take().is_some() && !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Without wait(2) the dead child would stay a zombie for as long as we run.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn words(endpoint: &Endpoint) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in endpoint.address().chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(endpoint.error("a quote is not closed"));
    }
    words.extend(word);
    if words.is_empty() { Err(endpoint.error("the command is missing")) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_a_command_into_words() {
        let split = |text: &str| words(&text.parse().unwrap());
        let expected = ["ssh", "host", "a b", "x'y", ""];
        assert_eq!(split(r#"pipe:ssh  host 'a b' "x'y" ''"#).unwrap(), expected);
        assert!(split("pipe: ").is_err());
        assert!(split("pipe:a 'b").is_err());
    }
}
