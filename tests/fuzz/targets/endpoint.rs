//! Endpoints: an endpoint is written as it was read, and every transport checks it without a panic.
#![no_main]

use ipcd_transport::{Endpoint, EndpointPurpose};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    look_at(text);
    // Most inputs have no scheme, and every transport of the registry is to see addresses.
    ipcd_transports::schemes().for_each(|scheme| look_at(&format!("{scheme}://{text}")));
});

fn look_at(text: &str) {
    let Ok(endpoint) = text.parse::<Endpoint>() else { return };
    let shown = endpoint.to_string();
    assert_eq!(shown.parse::<Endpoint>().ok().as_ref(), Some(&endpoint), "{shown:?}");
    let _ = (endpoint.path().is_ok(), endpoint.host_and_port().is_ok());
    for purpose in [EndpointPurpose::Listen, EndpointPurpose::ListenRaw, EndpointPurpose::Connect, EndpointPurpose::ConnectRaw] {
        let _ = ipcd_transports::of(&endpoint, purpose);
    }
}
