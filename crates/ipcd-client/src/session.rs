//! Opening a session: the handshake of a new connection.

use std::time::Instant;

use ipcd_proto::auth::Nonce;
use ipcd_proto::control::{Auth, Challenge, Code, Hello, Refusal, Welcome, decode, encode};
use ipcd_proto::{Frame, Kind, VERSION};
use ipcd_transport::{Endpoint, EndpointPurpose, Error as TransportError};

use crate::options::{Options, Token};
use crate::wire::{Turn, Wire, Wish};
use crate::{Error, Result};

/// What the daemon answers during the handshake.
enum Answer {
    Challenge(Challenge),
    Welcome(Welcome),
    Refused(Refusal),
    Other(Kind),
}

/// Connects and opens a session, by the deadline.
pub(crate) fn open(to: &Endpoint, options: &Options, deadline: Instant) -> Result<(Wire, Welcome)> {
    let transport = ipcd_transports::of(to, EndpointPurpose::Connect).map_err(Error::Connect)?;
    let channel = transport.connect(to, deadline).map_err(Error::Connect)?;
    let mut wire = Wire::new(channel);
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
    wire.control(Kind::Hello, 0, &encode(&hello));
    let welcome =
        shake_hands(&mut wire, to, options, &nonce, deadline).map_err(|error| match error {
            // Nobody there speaks with us at all.
            Error::Disconnected(why) => {
                Error::Connect(TransportError::Protocol(format!("{to}: {why}")))
            }
            error => error,
        })?;
    wire.set_max_payload(welcome.max_payload as usize);
    Ok((wire, welcome))
}

fn shake_hands(
    wire: &mut Wire,
    to: &Endpoint,
    options: &Options,
    nonce: &Nonce,
    deadline: Instant,
) -> Result<Welcome> {
    match answer(wire, deadline)? {
        Answer::Challenge(Challenge { nonce: theirs }) => {
            let proved = prove(wire, &options.token.load()?, nonce, &theirs, deadline);
            proved.map_err(|error| unproved(error, to, options))
        }
        answer => expect_welcome(answer),
    }
}

/// The token and the daemon do not go together: says which token that was, and which daemon. Another
/// user's may have the port.
fn unproved(error: Error, to: &Endpoint, options: &Options) -> Error {
    let which = format!("{to}, asked with {}", options.token);
    match error {
        Error::Refused(Refusal { code: Code::Denied, message }) => {
            let message = format!("{which}: {message}");
            Error::Refused(Refusal { code: Code::Denied, message })
        }
        Error::Protocol(why) => Error::Protocol(format!("{which}: {why}")),
        error => error,
    }
}

fn prove(
    wire: &mut Wire,
    token: &Token,
    ours: &Nonce,
    theirs: &Nonce,
    deadline: Instant,
) -> Result<Welcome> {
    let auth = Auth { proof: token.peer_proof(ours, theirs) };
    wire.control(Kind::Auth, 0, &encode(&auth));
    let welcome = expect_welcome(answer(wire, deadline)?)?;
    match welcome.proof {
        Some(proof) if token.verify_daemon(&proof, ours, theirs) => Ok(welcome),
        _ => Err(Error::Protocol("it could not prove that it holds the token".into())),
    }
}

fn expect_welcome(answer: Answer) -> Result<Welcome> {
    match answer {
        Answer::Welcome(welcome) if welcome.version == VERSION => Ok(welcome),
        Answer::Welcome(Welcome { version, .. }) => {
            Err(Error::Protocol(format!("it chose version {version}")))
        }
        Answer::Refused(refusal) => Err(Error::Refused(refusal)),
        Answer::Challenge(_) => Err(Error::Protocol("it asked twice for a token".into())),
        Answer::Other(kind) => Err(Error::Protocol(format!("{kind:?} came before WELCOME"))),
    }
}

fn answer(wire: &mut Wire, deadline: Instant) -> Result<Answer> {
    loop {
        if let Some(answer) = wire.next_frame(read_answer)? {
            return Ok(answer);
        }
        if wire.turn(Wish::input(Some(deadline)))? == Turn::Late {
            return Err(Error::TimedOut("answer to HELLO"));
        }
    }
}

fn read_answer(frame: &Frame<'_>) -> Result<Answer> {
    Ok(match frame.header.kind {
        Kind::Challenge => Answer::Challenge(decode(frame.payload)?),
        Kind::Welcome => Answer::Welcome(decode(frame.payload)?),
        Kind::Error => Answer::Refused(decode(frame.payload)?),
        kind => Answer::Other(kind),
    })
}
