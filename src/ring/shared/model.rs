//! The protocol of shared rings, step by step, in every order there is.
//!
//! A small machine takes the steps of the module page, with the shipped functions for words: two
//! sides, ends that are killed or stand still in front of any step, successors with the same
//! number, everybody clearing up after everybody. Whatever state can be reached is looked at once.

use super::layout::{
    FULL, Held, READING, SHARED_STATE, Seen, TURN, WRITING, free, freed, full, is_of, last_claimed,
    owner, put_back, reading, seen, writing,
};
use std::collections::HashSet;

/// What is left out, to see that the machine would find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    None,
    /// A message that is put back has the word that it had.
    NoTurn,
    /// A successor does not clear the words of its number away.
    NoClearing,
    /// The kernel is not asked.
    NoQuestion,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    /// Between two calls, or with nothing to do.
    Idle,
    /// P2, by halves, and P3.
    Write(u8),
    /// C2 from this word.
    Take(u64),
    /// C3, by halves, with what was read.
    Read(u8, u8),
    /// The copy before C2, by halves.
    Copy(u8, u8, u64),
    /// R1: this word was seen at this position.
    Ask(u64, u8),
    /// R2.
    Clear(u64, u8),
    /// Looking at what was left behind.
    Sweep(u8),
    /// A1 for a slot, and what was seen there.
    Own(u8, Option<u64>),
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Actor {
    produces: bool,
    number: u8,
    /// Copies before it takes.
    copies: bool,
    at: At,
    /// The position at the cursor; the first is one lap behind 0.
    cursor: u8,
    behind: Option<u8>,
    /// Messages that it has still to send, by number.
    next: u8,
    end: u8,
    restarts: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    words: Vec<u64>,
    data: Vec<[u8; 2]>,
    actors: Vec<Actor>,
    sent: Vec<bool>,
    delivered: Vec<u8>,
    kills: u8,
}

struct Machine {
    slots: u8,
    flaw: Flaw,
}

/// What may not happen.
type Wrong = &'static str;

impl Machine {
    fn start(&self, producers: &[u8], consumers: &[bool], kills: u8, restarts: u8) -> State {
        let mut actors = Vec::new();
        let mut next = 0;
        let idle = Actor {
            produces: true,
            number: 0,
            copies: false,
            at: At::Idle,
            cursor: self.slots,
            behind: None,
            next: 0,
            end: 0,
            restarts,
        };
        for (number, count) in (0..).zip(producers) {
            actors.push(Actor { number, next, end: next + count, ..idle });
            next += count;
        }
        for (number, copies) in (0..).zip(consumers) {
            actors.push(Actor { produces: false, number, copies: *copies, ..idle });
        }
        let messages = usize::from(next);
        State {
            words: vec![free(1); self.slots.into()],
            data: vec![[u8::MAX; 2]; self.slots.into()],
            actors,
            sent: vec![false; messages],
            delivered: vec![0; messages],
            kills,
        }
    }

    fn place(&self, position: u8) -> (usize, u64) {
        (usize::from(position % self.slots), u64::from(position / self.slots))
    }

    fn back(&self, word: u64) -> u64 {
        let back = put_back(word);
        if self.flaw == Flaw::NoTurn { back & !TURN } else { back }
    }

    /// Where the kernel says that nobody holds the end that `word` names.
    fn is_vacant(&self, state: &State, word: u64) -> bool {
        let produces = word & SHARED_STATE == WRITING;
        let holds = |actor: &Actor| {
            let is = actor.produces == produces && u32::from(actor.number) == owner(word);
            is && actor.at != At::Dead
        };
        self.flaw == Flaw::NoQuestion || !state.actors.iter().any(holds)
    }

    /// Lets actor number `who` take one step; `None` if it would change nothing.
    fn step(&self, state: &State, who: usize) -> Result<Option<State>, Wrong> {
        let mut new = state.clone();
        let mut actor = new.actors[who];
        let (slot, lap) = self.place(actor.cursor);
        let word = new.words[slot];
        let number = u32::from(actor.number);
        match actor.at {
            At::Dead => return Ok(None),
            At::Idle if actor.produces => {
                if actor.next == actor.end {
                    return Ok(None);
                }
                match seen(word, lap) {
                    Seen::Free => {
                        new.words[slot] = writing(lap, number);
                        actor.at = At::Write(0);
                    }
                    Seen::Before(Held::Full) => return Ok(None),
                    Seen::Before(_) => actor.at = At::Ask(word, actor.cursor),
                    Seen::Impossible => return Err("a producer met an impossible word"),
                    _ => actor.cursor += 1,
                }
            }
            At::Write(half @ 0..2) => {
                new.data[slot][usize::from(half)] = actor.next;
                actor.at = At::Write(half + 1);
            }
            At::Write(_) => {
                if word != writing(lap, number) {
                    return Err("a living producer's slot was taken from it");
                }
                new.words[slot] = full(lap);
                new.sent[usize::from(actor.next)] = true;
                actor.next += 1;
                actor.cursor += 1;
                actor.at = At::Idle;
            }
            At::Idle => match seen(word, lap) {
                Seen::Full if actor.copies => actor.at = At::Copy(0, 0, word),
                Seen::Full => actor.at = At::Take(word),
                Seen::Reading | Seen::Gone => {
                    if seen(word, lap) == Seen::Reading {
                        actor.behind = actor.behind.or(Some(actor.cursor));
                    }
                    actor.cursor += 1;
                }
                Seen::Writing => actor.at = At::Ask(word, actor.cursor),
                Seen::Before(Held::Full) => {
                    actor.cursor -= self.slots;
                    let back = actor.cursor;
                    actor.behind = Some(actor.behind.map_or(back, |behind| behind.min(back)));
                }
                Seen::Before(Held::Writing) | Seen::Impossible => {
                    return Err("a consumer met an impossible word");
                }
                Seen::Free | Seen::Before(Held::Reading) => match actor.behind {
                    Some(behind) => actor.at = At::Sweep(behind),
                    None => return Ok(None),
                },
            },
            At::Take(from) => {
                actor.at = At::Idle;
                if word == from {
                    new.words[slot] = reading(word, number);
                    actor.at = At::Read(0, 0);
                }
            }
            At::Read(0, _) => actor.at = At::Read(1, new.data[slot][0]),
            At::Read(_, id) => {
                if !is_of(word, READING, number) || seen(word, lap) != Seen::Reading {
                    return Err("a living consumer's slot was taken from it");
                }
                self.deliver(&mut new, slot, id)?;
                actor.cursor += 1;
                actor.at = At::Idle;
            }
            At::Copy(0, _, from) => actor.at = At::Copy(1, new.data[slot][0], from),
            At::Copy(1, id, from) => {
                // What is torn is thrown away, if the exchange shows that.
                let id = if new.data[slot][1] == id { id } else { u8::MAX };
                actor.at = At::Copy(2, id, from);
            }
            At::Copy(_, id, from) => {
                actor.at = At::Idle;
                if word == from {
                    self.deliver(&mut new, slot, id)?;
                    actor.cursor += 1;
                }
            }
            At::Ask(from, position) => {
                let swept = position < actor.cursor;
                let own = if actor.produces { WRITING } else { READING };
                let mine = is_of(from, own, number);
                actor.at = if mine || self.is_vacant(&new, from) {
                    At::Clear(from, position)
                } else if swept {
                    At::Sweep(position + 1)
                } else {
                    At::Idle
                };
            }
            At::Clear(from, position) => {
                let (slot, _) = self.place(position);
                if new.words[slot] == from {
                    let writes = from & SHARED_STATE == WRITING;
                    new.words[slot] = if writes { freed(from) } else { self.back(from) };
                }
                let swept = !actor.produces && position < actor.cursor;
                actor.at = if swept { At::Sweep(position) } else { At::Idle };
            }
            At::Sweep(position) if position >= actor.cursor => actor.at = At::Idle,
            At::Sweep(position) => {
                let (slot, lap) = self.place(position);
                let word = new.words[slot];
                match seen(word, lap) {
                    Seen::Gone => {
                        if actor.behind == Some(position) {
                            let next = position + 1;
                            actor.behind = Some(next).filter(|next| *next < actor.cursor);
                        }
                        actor.at = At::Sweep(position + 1);
                    }
                    Seen::Reading => actor.at = At::Ask(word, position),
                    Seen::Before(_) | Seen::Impossible => actor.at = At::Sweep(position + 1),
                    Seen::Full | Seen::Writing | Seen::Free => {
                        actor.cursor = position;
                        actor.at = At::Idle;
                    }
                }
            }
            At::Own(slot, None) if slot == self.slots => {
                // A2 and A3: from the last position that was taken in the first slot.
                let claimed = last_claimed(new.words[0], 1) as u8 * self.slots;
                actor.cursor = claimed + 1;
                if !actor.produces {
                    actor.cursor -= self.slots.min(claimed + 1 - self.slots.min(claimed + 1));
                    actor.cursor = actor.cursor.max(self.slots);
                }
                actor.at = At::Idle;
            }
            At::Own(slot, None) => {
                let word = new.words[usize::from(slot)];
                let state = if actor.produces { WRITING } else { READING };
                let own = is_of(word, state, number) && self.flaw != Flaw::NoClearing;
                actor.at = if own { At::Own(slot, Some(word)) } else { At::Own(slot + 1, None) };
            }
            At::Own(slot, Some(from)) => {
                let word = &mut new.words[usize::from(slot)];
                if *word == from {
                    *word = if actor.produces { freed(from) } else { self.back(from) };
                }
                actor.at = At::Own(slot + 1, None);
            }
        }
        new.actors[who] = actor;
        Ok((new != *state).then_some(new))
    }

    fn deliver(&self, new: &mut State, slot: usize, id: u8) -> Result<(), Wrong> {
        if new.data[slot] != [id; 2] {
            return Err("a message was torn");
        }
        new.words[slot] = freed(new.words[slot]);
        let times = &mut new.delivered[usize::from(id)];
        *times += 1;
        if *times > 1 {
            return Err("a message was delivered twice");
        }
        if new.sent[usize::from(id)] { Ok(()) } else { Err("a message was delivered unsent") }
    }

    /// Actor number `who` is killed, or its successor comes.
    fn fate(&self, state: &State, who: usize) -> Option<State> {
        let mut new = state.clone();
        let actor = &mut new.actors[who];
        if actor.at != At::Dead {
            new.kills = new.kills.checked_sub(1)?;
            if matches!(actor.at, At::Write(_)) {
                actor.next += 1; // that one never was
            }
            actor.at = At::Dead;
            return Some(new);
        }
        actor.restarts = actor.restarts.checked_sub(1)?;
        actor.at = At::Own(0, None);
        actor.behind = None;
        Some(new)
    }

    /// Those who live go on by themselves: everything is sent that they had to send, and every
    /// message that was sent has been delivered once.
    fn finish(&self, state: &State) -> Result<(), Wrong> {
        let mut now = state.clone();
        if !now.actors.iter().any(|actor| !actor.produces && actor.at != At::Dead) {
            return Ok(());
        }
        for _ in 0..200 {
            let mut moved = false;
            for who in 0..now.actors.len() {
                for _ in 0..3 {
                    if let Some(next) = self.step(&now, who)? {
                        now = next;
                        moved = true;
                    }
                }
            }
            let sent = now.actors.iter().all(|it| it.at == At::Dead || it.next == it.end);
            let delivered = now.sent.iter().zip(&now.delivered).all(|(s, d)| u8::from(*s) == *d);
            if sent && delivered {
                return Ok(());
            }
            if !moved {
                return Err("it stands still");
            }
        }
        Err("it goes round and round")
    }

    /// Looks at every state that can be reached; how many, or what is wrong.
    fn explore(&self, start: State) -> Result<usize, Wrong> {
        let mut known = HashSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            self.finish(&state)?;
            for who in 0..state.actors.len() {
                for next in [self.step(&state, who)?, self.fate(&state, who)].into_iter().flatten()
                {
                    if known.insert(next.clone()) {
                        open.push(next);
                    }
                }
            }
        }
        assert!(known.iter().any(|state| state.words.iter().any(|w| w & SHARED_STATE == FULL)));
        Ok(known.len())
    }
}

#[test]
fn nothing_is_lost_doubled_torn_or_stuck_in_any_order_of_steps() {
    let mut looked_at = 0;
    for (slots, producers, consumers, kills, restarts) in [
        (2, &[1, 1][..], &[false, true][..], 1, 1),
        (1, &[1, 1], &[false], 1, 1),
        (1, &[2], &[false, false], 1, 1),
        (2, &[2], &[false, true], 1, 0),
        (1, &[1], &[false, false], 3, 2),
        (1, &[1, 1], &[true], 2, 1),
    ] {
        let machine = Machine { slots, flaw: Flaw::None };
        let states = machine.explore(machine.start(producers, consumers, kills, restarts));
        let states = states.unwrap_or_else(|wrong| {
            panic!("{slots} {producers:?} {consumers:?} {kills} {restarts}: {wrong}")
        });
        looked_at += states;
    }
    assert!(looked_at > 50_000, "{looked_at}");
}

#[test]
fn what_is_left_out_of_the_protocol_is_missed() {
    for (flaw, slots, producers, consumers, expected) in [
        (Flaw::NoTurn, 1, &[1][..], &[false, false][..], "a living consumer's slot was taken"),
        (Flaw::NoClearing, 2, &[1, 1], &[false], "it goes round and round"),
        (Flaw::NoQuestion, 1, &[1, 1], &[false], "a living producer's slot was taken"),
    ] {
        let machine = Machine { slots, flaw };
        let wrong = machine.explore(machine.start(producers, consumers, 2, 1)).unwrap_err();
        assert!(wrong.starts_with(expected), "{flaw:?}: {wrong}");
    }
}
