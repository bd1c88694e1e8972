//! Opening a session: the handshake of a new connection.

use std::time::Instant;

use ipcd_proto::auth::Nonce;
use ipcd_proto::control::{Auth, Challenge, Hello, Refusal, RefusalCode, Welcome, decode, encode};
use ipcd_proto::{Frame, FrameKind, VERSION};
use ipcd_transport::{Endpoint, EndpointPurpose, Error as TransportError};

use crate::frame_channel::{FrameChannel, TurnGoal, TurnOutcome};
use crate::options::{Options, Token};
use crate::{Error, Result};

/// An answer of the daemon during the handshake.
enum HandshakeReply {
    Challenge(Challenge),
    Welcome(Welcome),
    Refused(Refusal),
    Other(FrameKind),
}

/// Connects and opens a session, by the deadline.
pub(crate) fn open(
    to: &Endpoint,
    options: &Options,
    deadline: Instant,
) -> Result<(FrameChannel, Welcome)> {
    let transport = ipcd_transports::of(to, EndpointPurpose::Connect).map_err(Error::Connect)?;
    let channel = transport.connect(to, deadline).map_err(Error::Connect)?;
    let mut channel = FrameChannel::new(channel);
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|error| Error::Protocol(error.to_string()))?;
    let hello = Hello {
        magic: Hello::MAGIC,
        oldest: VERSION,
        newest: VERSION,
        features: 0,
        nonce,
        name: options.name.clone(),
        token: options.token_name.clone(),
        no_echo: options.no_echo,
    };
    channel.control(FrameKind::Hello, 0, &encode(&hello));
    let welcome =
        shake_hands(&mut channel, to, options, &nonce, deadline).map_err(|error| match error {
            // A listener of another program, or one for raw peers, most likely.
            Error::Disconnected(why) => {
                Error::Connect(TransportError::Protocol(format!("{to}: {why}")))
            }
            error => error,
        })?;
    // The daemon may allow larger payloads than the default, and frames may then be larger.
    channel.set_max_payload(welcome.max_payload as usize);
    Ok((channel, welcome))
}

fn shake_hands(
    channel: &mut FrameChannel,
    to: &Endpoint,
    options: &Options,
    nonce: &Nonce,
    deadline: Instant,
) -> Result<Welcome> {
    match answer(channel, deadline)? {
        HandshakeReply::Challenge(Challenge { nonce: theirs }) => {
            let proved = prove(channel, &options.token.load()?, nonce, &theirs, deadline);
            proved.map_err(|error| unproved(error, to, options))
        }
        answer => expect_welcome(answer),
    }
}

/// Adds the endpoint and the token to an error: the daemon at a default port may be another user's.
fn unproved(error: Error, to: &Endpoint, options: &Options) -> Error {
    let which = format!("{to}, asked with {}", options.token);
    match error {
        Error::Refused(Refusal { code: RefusalCode::Denied, message }) => {
            let message = format!("{which}: {message}");
            Error::Refused(Refusal { code: RefusalCode::Denied, message })
        }
        Error::Protocol(why) => Error::Protocol(format!("{which}: {why}")),
        error => error,
    }
}

fn prove(
    channel: &mut FrameChannel,
    token: &Token,
    ours: &Nonce,
    theirs: &Nonce,
    deadline: Instant,
) -> Result<Welcome> {
    let auth = Auth { proof: token.peer_proof(ours, theirs) };
    channel.control(FrameKind::Auth, 0, &encode(&auth));
    let welcome = expect_welcome(answer(channel, deadline)?)?;
    // The daemon has to prove the token, too: another user's process may have taken the port.
    match welcome.proof {
        Some(proof) if token.verify_daemon(&proof, ours, theirs) => Ok(welcome),
        _ => Err(Error::Protocol("it did not prove that it holds the token".into())),
    }
}

fn expect_welcome(answer: HandshakeReply) -> Result<Welcome> {
    match answer {
        HandshakeReply::Welcome(welcome) if welcome.version == VERSION => Ok(welcome),
        HandshakeReply::Welcome(Welcome { version, .. }) => {
            Err(Error::Protocol(format!("it chose version {version} of the protocol")))
        }
        HandshakeReply::Refused(refusal) => Err(Error::Refused(refusal)),
        HandshakeReply::Challenge(_) => Err(Error::Protocol("it asked for a token twice".into())),
        HandshakeReply::Other(kind) => {
            Err(Error::Protocol(format!("{kind:?} came before WELCOME")))
        }
    }
}

fn answer(channel: &mut FrameChannel, deadline: Instant) -> Result<HandshakeReply> {
    loop {
        if let Some(answer) = channel.next_frame(read_answer)? {
            return Ok(answer);
        }
        if channel.turn(TurnGoal::input(Some(deadline)))? == TurnOutcome::Late {
            return Err(Error::TimedOut("answer to HELLO"));
        }
    }
}

fn read_answer(frame: &Frame<'_>) -> Result<HandshakeReply> {
    Ok(match frame.header.kind {
        FrameKind::Challenge => HandshakeReply::Challenge(decode(frame.payload)?),
        FrameKind::Welcome => HandshakeReply::Welcome(decode(frame.payload)?),
        FrameKind::Error => HandshakeReply::Refused(decode(frame.payload)?),
        kind => HandshakeReply::Other(kind),
    })
}
