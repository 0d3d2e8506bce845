//! Signals become events of the node. As process 1 of a container the node has no default handling to rely on.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;

use crate::node::Event;

/// Sends an event for each signal: the first SIGTERM drains, a second one or SIGINT ends at once.
///
/// # Errors
/// What the system says.
pub fn forward(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let body = move || {
        let mut draining = false;
        for signal in signals.forever() {
            let event = if signal == SIGTERM && !draining { Event::Drain } else { Event::Stop };
            info!(signal, "received a signal: {event:?}");
            draining = true;
            if events.send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(body)?;
    Ok(())
}
