//! What became of the messages of a shared ring: each goes to one of many consumers.

use super::judge::Tally;
use super::note::{Kind, Note};
use std::collections::HashMap;

/// The messages of all lives that sent.
#[derive(Debug, Default)]
pub struct Receipts {
    lives: HashMap<u32, Sent>,
}

/// The messages that one life sent.
#[derive(Debug, Default)]
struct Sent {
    /// So many, by its own notes.
    told: u64,
    /// There may be one more, of which it could not tell.
    one_more: bool,
    received: Vec<Receipt>,
}

/// How often a message was received.
#[derive(Clone, Copy, Debug, Default)]
struct Receipt {
    times: u8,
    /// So many of them by consumers that may have been killed before they released it.
    doubtful: u8,
    /// So many more by consumers that were certainly killed before.
    kept: u8,
}

impl Receipts {
    /// A note of a producer.
    pub fn sent(&mut self, note: Note) {
        let sent = self.lives.entry(note.batch.life).or_default();
        sent.told = note.position;
        sent.one_more = !matches!(note.kind, Kind::Stands | Kind::Bye);
    }

    fn receipt(&mut self, note: Note) -> &mut Receipt {
        let received = &mut self.lives.entry(note.batch.life).or_default().received;
        // A torn number does not come here, so this is not larger than what was sent.
        let index = note.position as usize;
        if received.len() <= index {
            received.resize(index + 1, Receipt::default());
        }
        &mut received[index]
    }

    /// A message was received.
    pub fn received(&mut self, note: Note) {
        self.receipt(note).times += 1;
    }

    /// The consumer that told of this message last was killed.
    pub fn killed(&mut self, kind: Kind, note: Note) {
        let receipt = self.receipt(note);
        match kind {
            Kind::Kept => (receipt.times, receipt.kept) = (receipt.times - 1, receipt.kept + 1),
            Kind::Released => {}
            _ => receipt.doubtful += 1,
        }
    }

    /// Compares what was sent with what was received.
    ///
    /// # Errors
    ///
    /// A message was lost, or received again although it was released.
    pub fn close(&self, tally: &mut Tally) -> Result<(), String> {
        let mut wrong = Ok(());
        for (life, sent) in &self.lives {
            let most = sent.told + u64::from(sent.one_more);
            let count = sent.received.len() as u64;
            if count < sent.told || count > most {
                tally.lost += sent.told.saturating_sub(count);
                wrong = Err(format!("life {life} sent {} and {count} came", sent.told));
            }
            for (number, receipt) in sent.received.iter().enumerate() {
                let Receipt { times, doubtful, kept } = *receipt;
                if times == 0 {
                    tally.lost += 1;
                    wrong = Err(format!("message {number} of life {life}: {receipt:?}"));
                } else if times - 1 > doubtful {
                    wrong = Err(format!("message {number} of life {life} again: {receipt:?}"));
                }
                tally.again += u64::from(times.saturating_sub(1)) + u64::from(kept);
                tally.certain += u64::from(kept);
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::Batch;
    use super::*;

    fn note(kind: Kind, position: u64) -> Note {
        Note { batch: Batch { life: 7, follow: 0 }, ..Note::new(kind, position, 0) }
    }

    #[test]
    fn lost_and_repeated_messages_are_noticed() {
        let judged = |received: &[u64], killed: Option<(Kind, u64)>| {
            let mut receipts = Receipts::default();
            receipts.sent(note(Kind::Bye, 3));
            received.iter().for_each(|&number| receipts.received(note(Kind::Message, number)));
            if let Some((kind, number)) = killed {
                receipts.killed(kind, note(kind, number));
            }
            receipts.close(&mut Tally::default()).is_ok()
        };
        assert!(judged(&[2, 0, 1], None));
        assert!(!judged(&[0, 1], None));
        assert!(!judged(&[0, 2], None));
        assert!(!judged(&[0, 1, 2, 3], None));
        assert!(!judged(&[0, 1, 1, 2], None));
        assert!(judged(&[0, 1, 1, 2], Some((Kind::Message, 1))));
        assert!(!judged(&[0, 1, 1, 2], Some((Kind::Released, 1))));
        assert!(!judged(&[0, 1, 2], Some((Kind::Kept, 1))));
        assert!(judged(&[0, 1, 1, 2], Some((Kind::Kept, 1))));
    }
}
