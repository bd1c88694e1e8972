//! FIFOs (named pipes, fifo(7)): a fresh pair for each peer, named by a record that the client
//! writes into the daemon's well-known FIFO.
//!
//! The client makes the pair in the *drop box*, a directory beside the well-known FIFO, because a
//! file's owner is all that the kernel vouches for here. For `/run/ipcd/ipcd.fifo` the drop box is
//! `/run/ipcd/fifo`; for any other `PATH` it is `PATH.d`, so that each listener has its own.
//!
//! 1. The client makes `NAME.up` and `NAME.down` with mode 0600, NAME being 128 random bits in
//!    hexadecimal. It opens `down` for reading, and `up` both for writing and `O_RDWR`, so that
//!    `up` has a reader before the daemon comes.
//! 2. It writes the record (see `record.rs` for the layout) with one write(2). At most `PIPE_BUF`
//!    bytes, it does not mix with another client's.
//! 3. The daemon examines both FIFOs before it opens them, takes their owner for the peer's
//!    identity, removes both names, and writes `ipcd-fifo/1` (11 bytes) into `down`.
//! 4. The client reads these bytes, which is how it knows that the daemon has both ends, and closes
//!    its `O_RDWR` descriptor, so that the daemon's end is a broken pipe from now on.

mod connect;
mod drop_box;
mod egress;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ingress;
mod listener;
mod record;
mod turn;
mod warden;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, IdentityKind,
    InheritedFd, Listener, PathRights, RawChannel, RawDirections, RawTransport, Result,
    SocketActivation, StreamChannel, Transport,
};

/// The FIFO transport.
pub struct Fifo;

/// The bytes that the daemon writes into a peer's `down` FIFO before any frame: the rendezvous' version.
const GREETING: &[u8; 11] = b"ipcd-fifo/1";

impl Transport for Fifo {
    fn scheme(&self) -> &'static str {
        "fifo"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "two named pipes; the kernel names the peer's user",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: false,
            encrypted: false,
            largest_record: None,
            identity: IdentityKind::Owner,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &OPTIONS
    }

    fn options_for(&self, purpose: EndpointPurpose) -> &'static [&'static str] {
        match purpose {
            EndpointPurpose::Listen => &PathRights::OPTIONS,
            EndpointPurpose::ListenRaw => &OPTIONS,
            EndpointPurpose::Connect => &["owner"],
            EndpointPurpose::ConnectRaw => &OPTIONS[3..],
        }
    }

    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
        endpoint.path()?;
        let way = FifoDirection::of(endpoint)?;
        match purpose {
            EndpointPurpose::Listen => check_rights(endpoint, FifoDirection::In),
            // Without a word about the way, `check_raw` knows it.
            EndpointPurpose::ListenRaw => way.map_or(Ok(()), |way| check_rights(endpoint, way)),
            _ => Ok(()),
        }
    }

    fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::from_path(self.scheme(), &runtime_dir.join("ipcd.fifo")))
    }

    fn listens_by_default(&self) -> bool {
        true
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        if FifoDirection::of(at)?.is_some() {
            return Err(at.error("direction is for raw peers: frames go both ways"));
        }
        check_rights(at, FifoDirection::In)?;
        Ok(Box::new(listener::FifoListener::open(at)?))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        Ok(Box::new(connect::connect(to, deadline)?))
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(StreamChannel::adopt(parts)?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }

    fn activation(&self) -> Option<&dyn SocketActivation> {
        Some(self)
    }
}

impl SocketActivation for Fifo {
    fn endpoint_of(&self, passed: &InheritedFd) -> Option<Endpoint> {
        match passed {
            InheritedFd::Fifo(path) if path.is_absolute() => {
                Some(Endpoint::from_path(self.scheme(), path))
            }
            _ => None,
        }
    }

    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let passed = InheritedFd::of(passed.as_fd());
        Err(passed.refused(at, "a FIFO that ipcd makes itself, or a codec= for raw lines"))
    }

    fn inherit_raw(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let found = InheritedFd::of(passed.as_fd());
        let local = self.endpoint_of(&found);
        let local = local.ok_or_else(|| found.refused(at, "a FIFO with a path"))?;
        if PathRights::is_given(at) {
            return Err(at.error("mode=, owner= and group= are for a FIFO that ipcd makes itself"));
        }
        Ok(Box::new(ingress::IngressListener::over(&passed, local)?))
    }
}

impl RawTransport for Fifo {
    fn check_raw(&self, at: &Endpoint, flow: RawDirections) -> Result<Endpoint> {
        let mut at = at.clone();
        let way = match flow {
            RawDirections { inward: true, outward: true } => {
                return Err(at.error("a FIFO has one direction: give subject= or reply=, not both"));
            }
            RawDirections { outward: true, .. } => FifoDirection::Out,
            RawDirections { .. } => FifoDirection::In,
        };
        if FifoDirection::of(&at)?.is_some_and(|asked| asked != way) {
            let why = "direction=in needs subject= and no reply=, direction=out needs reply= and no subject=";
            return Err(at.error(why));
        }
        check_rights(&at, way)?;
        at.set_option(DIRECTION, way.name());
        Ok(at)
    }

    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        let way = FifoDirection::of(at)?;
        check_rights(at, way.unwrap_or(FifoDirection::In))?;
        let at_path = plain(at);
        match way {
            Some(FifoDirection::Out) => Ok(Box::new(egress::EgressListener::open(&at_path)?)),
            Some(FifoDirection::In) | None => {
                Ok(Box::new(ingress::IngressListener::open(&at_path)?))
            }
        }
    }

    fn connect_raw(
        &self,
        to: &Endpoint,
        _deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        match FifoDirection::of(to)? {
            Some(FifoDirection::In) => ingress::connect_to_read(to),
            // As a listener reads, so that one FIFO can be passed on to another.
            Some(FifoDirection::Out) | None => ingress::connect_to_write(to),
        }
    }

    fn adopt_raw(&self, parts: ChannelParts) -> Result<RawChannel> {
        let channel: Box<dyn Channel> = match parts.state == egress::STATE {
            true => Box::new(egress::EgressChannel::adopt(parts)?),
            false => Box::new(ingress::IngressChannel::adopt(parts)?),
        };
        Ok(RawChannel { has_end: false, ..RawChannel::stream(channel) })
    }
}

/// The option that says which way a raw FIFO's bytes go.
const DIRECTION: &str = "direction";

const OPTIONS: [&str; 4] =
    [PathRights::OPTIONS[0], PathRights::OPTIONS[1], PathRights::OPTIONS[2], DIRECTION];

/// The endpoint without a direction.
fn plain(at: &Endpoint) -> Endpoint {
    let mut at = at.clone();
    at.take_option(DIRECTION);
    at
}

/// Refuses rights that undo the FIFO's purpose. Bytes for the daemon can be taken by any user who
/// may read there; and what the daemon says, readers cannot tell from what others write.
fn check_rights(at: &Endpoint, way: FifoDirection) -> Result<()> {
    let access = PathRights::of(at, PathRights::PRIVATE)?;
    match way {
        way if !way.is_crossed(&access) => Ok(()),
        FifoDirection::In => Err(at.error(
            "other users could read what is meant for the daemon: give them the right to \
             write only, as in mode=0620 or mode=0622",
        )),
        FifoDirection::Out => Err(at.error(
            "other users could write to its readers in the daemon's name: give them the \
             right to read only, as in mode=0640 or mode=0644",
        )),
    }
}

/// The direction of a raw peer's FIFO, which has only one.
#[derive(Clone, Copy, Eq, PartialEq)]
enum FifoDirection {
    /// Into the daemon.
    In,
    /// Out of it.
    Out,
}

impl FifoDirection {
    fn of(endpoint: &Endpoint) -> Result<Option<Self>> {
        match endpoint.option(DIRECTION) {
            None => Ok(None),
            Some("in") => Ok(Some(Self::In)),
            Some("out") => Ok(Some(Self::Out)),
            Some(_) => Err(endpoint.error("direction is in or out")),
        }
    }

    /// Whether others than the owner have a right that goes the other way.
    fn is_crossed(self, access: &PathRights) -> bool {
        match self {
            Self::In => access.is_readable_by_others(),
            Self::Out => access.is_shared(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}
