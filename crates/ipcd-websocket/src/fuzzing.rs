//! Access for the fuzz targets: only `cargo fuzz` compiles it.

use ipcd_transport::ReadBuffer;

use crate::place::Place;
use crate::request::RequestRules;
use crate::response::ask;
use crate::socket::WebSocket;

/// Gives these bytes to a server, as the request and what comes behind it; and to a client and a
/// server whose upgrade is over, in one piece and byte by byte.
pub fn peer(bytes: &[u8]) {
    let rules = |is_raw| RequestRules { path: "/x".into(), origins: None, is_raw };
    let _ = run(WebSocket::server(rules(false)), bytes, 1);
    let place = Place::of(&"ws://localhost:1/x".parse().expect("it is one")).expect("it is one");
    let Ok((request, expected)) = ask(&place, false) else { return };
    let _ = expected.check(bytes);
    for is_raw in [false, true] {
        let open = || {
            let mut server = WebSocket::server(rules(is_raw));
            server.receive(request.as_bytes(), None).expect("our own request is accepted");
            server
        };
        assert_eq!(run(open(), bytes, 1), run(open(), bytes, bytes.len().max(1)));
    }
}

/// The payloads, and the error.
fn run(mut socket: WebSocket, bytes: &[u8], step: usize) -> (Vec<u8>, Option<String>) {
    let mut into = ReadBuffer::new(0, 1 << 20);
    for piece in bytes.chunks(step) {
        let received = socket.receive(piece, Some(&mut into));
        // It survives a move to another process at any time.
        let state = socket.encode(b"below").expect("it fits");
        let (moved, below) = WebSocket::decode(&state).expect("it was encoded here");
        assert_eq!(below, b"below");
        socket = moved;
        if let Err(error) = received {
            return (into.filled().to_vec(), Some(error.to_string()));
        }
    }
    (into.filled().to_vec(), None)
}
