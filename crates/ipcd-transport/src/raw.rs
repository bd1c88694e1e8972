//! Raw peers: programs that know nothing of frames, whose bytes a codec makes messages of.

use std::time::Instant;

use crate::{Channel, ChannelParts, Endpoint, Error, Listener, Result, Transport};

/// A transport that also moves the bytes of raw peers.
pub trait RawTransport: Transport {
    /// Checks that raw peers can be at the endpoint, and that their bytes can go in these
    /// directions. The check asks the system nothing. Returns the endpoint to open, which names the
    /// direction if the transport has to know it.
    fn check_raw(&self, at: &Endpoint, _directions: RawDirections) -> Result<Endpoint> {
        Ok(at.clone())
    }

    /// Binds the endpoint for raw peers.
    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        self.listen(at)
    }

    /// Connects to a raw server, and fails with [`Error::TimedOut`](crate::Error::TimedOut) at the
    /// deadline. [`RawTransport::adopt_raw`] makes the channel. Where the server is a program that
    /// the transport starts, the program's environment has these variables, and none of those
    /// without a value.
    fn connect_raw(
        &self,
        to: &Endpoint,
        deadline: Instant,
        variables: &[EnvVariable],
    ) -> Result<ChannelParts>;

    /// Whether bytes can go to a raw peer before the channel encrypts: some protocols begin in clear
    /// text (as after STARTTLS).
    fn takes_greeting(&self) -> bool {
        false
    }

    /// Sends bytes in clear text to a raw peer that was just accepted. They are few, so that the
    /// kernel takes them at once.
    fn greet(&self, _parts: &ChannelParts, _bytes: &[u8]) -> Result<()> {
        Err(Error::Protocol(format!("{} has no clear text before its channel", self.scheme())))
    }

    /// Makes a channel to a raw peer of what a listener for raw peers, or
    /// [`RawTransport::connect_raw`], returned.
    fn adopt_raw(&self, parts: ChannelParts) -> Result<RawChannel> {
        Ok(RawChannel::stream(self.adopt(parts)?))
    }
}

/// The directions in which the bytes of raw peers go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RawDirections {
    /// Whether the daemon reads from the peers.
    pub inward: bool,
    /// Whether the daemon writes to the peers.
    pub outward: bool,
}

/// A variable of a program's environment; without a value, one that the program must not have.
pub type EnvVariable = (String, Option<String>);

/// A channel that moves any bytes, where others move frames: what is read is what the peer wrote.
pub struct RawChannel {
    /// The channel.
    pub channel: Box<dyn Channel>,
    /// Whether each read brings one record, and each write makes one.
    pub keeps_records: bool,
    /// Whether the peer can end its stream.
    pub has_end: bool,
    /// Bytes of the largest record.
    pub largest: Option<usize>,
    /// The process that was started for this channel, in a process group of its own. The owner of
    /// the channel reaps it; dropping the channel does not end it.
    pub child: Option<u32>,
}

impl RawChannel {
    /// A byte stream that has an end.
    pub fn stream(channel: Box<dyn Channel>) -> Self {
        Self { channel, keeps_records: false, has_end: true, largest: None, child: None }
    }

    /// Datagrams of so many bytes at the most, of which none is the last.
    pub fn datagrams(channel: Box<dyn Channel>, largest: Option<usize>) -> Self {
        Self { keeps_records: true, has_end: false, largest, ..Self::stream(channel) }
    }
}

/// The peculiarities of a channel to a raw peer.
pub trait RawBehaviour {
    /// Whether [`Channel::read_fd`] is to be waited for by its edges (`EPOLLET`), because it reports
    /// the same state again and again. After a read the caller waits anew (`EPOLL_CTL_MOD`), or
    /// reads on until nothing is there.
    fn reports_edges(&self) -> bool {
        false
    }

    /// Whether the peer only writes: nothing can be sent to it, because it has no address.
    fn is_write_only(&self) -> bool {
        false
    }
}
