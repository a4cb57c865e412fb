//! What was sent to a syslog server and may have to be sent again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What is kept beyond what the server may not have read yet, in bytes.
const MOST: usize = 4 << 20;
/// What may be sent before the server is asked whether it has read it, in bytes.
const MOST_UNREAD: usize = 2 << 20;

/// Frames in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Sent {
    /// How long a server that has read something may take to put it where its own death does no harm.
    window: Duration,
    frames: VecDeque<(Instant, Vec<u8>)>,
    /// How many of them, from the first on, the server has read.
    read: usize,
    bytes: usize,
    unread: usize,
}

impl Sent {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, frames: VecDeque::new(), read: 0, bytes: 0, unread: 0 }
    }

    pub(super) fn add(&mut self, frames: Vec<Vec<u8>>) {
        let now = Instant::now();
        for frame in frames {
            self.bytes += frame.len();
            self.unread += frame.len();
            self.frames.push_back((now, frame));
        }
    }

    /// Frames that the server may not have read.
    pub(super) fn unread(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().skip(self.read).map(|(_, frame)| frame.as_slice())
    }

    /// Whether it is time to ask the server: too much was sent since it was asked, or it had time enough with everything.
    pub(super) fn is_due(&self) -> bool {
        let Some((since, _)) = self.frames.get(self.read) else { return false };
        let last = self.frames.back().map_or(Duration::ZERO, |(sent, _)| sent.elapsed());
        self.unread > MOST_UNREAD || since.elapsed() > 2 * self.window || last > self.window
    }

    /// The server has read everything. What it has had for long enough is forgotten.
    pub(super) fn confirm(&mut self) {
        (self.read, self.unread) = (self.frames.len(), 0);
        while let Some((since, frame)) = self.frames.front()
            && (since.elapsed() > self.window || self.bytes > MOST)
        {
            self.bytes -= frame.len();
            self.frames.pop_front();
            self.read -= 1;
        }
    }

    /// The server may be another one now, which knows nothing.
    pub(super) fn doubt(&mut self) {
        (self.read, self.unread) = (0, self.bytes);
    }

    /// Everything that was unread has been sent again.
    pub(super) fn again(&mut self) {
        let now = Instant::now();
        for (since, _) in self.frames.iter_mut().skip(self.read) {
            *since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(50);

    fn all(sent: &Sent) -> Vec<&[u8]> {
        sent.unread().collect()
    }

    #[test]
    fn what_was_read_long_ago_is_forgotten_and_nothing_else() {
        let mut sent = Sent::new(WINDOW);
        sent.add(vec![b"one".to_vec()]);
        assert!(!sent.is_due());
        thread::sleep(2 * WINDOW);
        assert!(sent.is_due());
        sent.doubt();
        assert_eq!(all(&sent), [b"one"], "its delivery is not confirmed");
        sent.add(vec![b"two".to_vec()]);
        sent.confirm();
        assert!(all(&sent).is_empty() && !sent.is_due());
        sent.doubt();
        assert_eq!(all(&sent), [b"two"]);
        thread::sleep(2 * WINDOW);
        sent.again();
        sent.confirm();
        sent.doubt();
        assert_eq!(all(&sent), [b"two"], "the server has it only now");
    }

    #[test]
    fn memory_is_bounded() {
        let mut sent = Sent::new(Duration::from_hours(1));
        for _ in 0..20 {
            sent.add(vec![vec![0; 1 << 20]]);
            if sent.is_due() {
                sent.confirm();
            }
            assert!(sent.bytes <= MOST + MOST_UNREAD + (1 << 20), "{}", sent.bytes);
        }
    }
}
