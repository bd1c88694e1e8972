//! Configurations: an invalid one is an error with a position, a valid one survives a round trip.
#![no_main]

use std::path::Path;

use ipcd_server::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("f.toml");
    match Config::parse(text, path) {
        Ok(config) => {
            let shown = config.to_text();
            let again = Config::parse(&shown, path).expect("it reads what it writes");
            assert_eq!(again.to_text(), shown);
        }
        Err(error) => {
            let error = error.to_string();
            let place: Vec<_> = error.splitn(4, ':').collect();
            assert!(place.len() == 4 && place[0] == "f.toml", "{error}");
            assert!(place[1..3].iter().all(|number| number.parse::<usize>().is_ok()), "{error}");
        }
    }
});
