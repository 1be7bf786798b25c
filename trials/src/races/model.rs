//! What the answers may be: those of the same calls made one after the other, in some order.
//!
//! A call that was killed may have done its work or not. A collector may find that a segment is
//! held by whoever has just made or opened it, so it may leave it, and may not take one that
//! somebody holds all the time.

use super::operation::{Answer, Operation};

/// One call and what came of it.
#[derive(Clone, Debug)]
pub struct Made {
    /// The call.
    pub operation: Operation,
    /// Its answer; none if it was killed.
    pub answer: Option<Answer>,
}

/// What was there before, and what is there behind all of them.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The identity that the name led to at first.
    pub before: Option<String>,
    /// Whether somebody holds that segment all the time.
    pub held: bool,
    /// The identity that the name leads to now.
    pub after: Option<String>,
}

/// The identity of a segment whose creator was killed before he could tell.
const UNTOLD: &str = "untold";

/// Whether some order of the calls explains all answers and what is there now.
pub fn explains(made: &[Made], frame: &Frame) -> bool {
    let mut left: Vec<&Made> = made.iter().collect();
    search(&mut left, frame.before.clone(), frame, made)
}

fn search(left: &mut Vec<&Made>, state: Option<String>, frame: &Frame, all: &[Made]) -> bool {
    if left.is_empty() {
        return state == frame.after;
    }
    for index in 0..left.len() {
        let one = left.remove(index);
        let found = behind(one, &state, frame, all)
            .into_iter()
            .any(|state| search(left, state, frame, all));
        left.insert(index, one);
        if found {
            return true;
        }
    }
    false
}

/// What the name may lead to behind a call, if its answer can be explained.
fn behind(made: &Made, state: &Option<String>, frame: &Frame, all: &[Made]) -> Vec<Option<String>> {
    use Operation as Op;
    let same = || vec![state.clone()];
    let when = |condition: bool, then: Option<String>| if condition { vec![then] } else { vec![] };
    let free = |identity: &String| !(frame.held && frame.before.as_ref() == Some(identity));
    let Some(answer) = &made.answer else {
        // Killed: as if it had never been, or done.
        let mut states = same();
        match made.operation {
            Op::Remove => states.push(None),
            Op::Collect if state.as_ref().is_none_or(free) => states.push(None),
            Op::Create | Op::CreateSysv | Op::OpenOrCreate if state.is_none() => {
                states.push(frame.after.clone());
            }
            Op::Replace => states.push(frame.after.clone()),
            _ => {}
        }
        // What a killed creator made may have been found, and removed, by another.
        if made.operation == Op::Replace || (made.operation.creates() && state.is_none()) {
            states.push(Some(UNTOLD.to_owned()));
        }
        return states;
    };
    let is = |identity: &String| {
        state.as_ref().is_some_and(|state| state == identity || state == UNTOLD)
    };
    match (made.operation, answer) {
        (Op::Create | Op::CreateSysv, Answer::Got(new)) => when(state.is_none(), Some(new.clone())),
        (Op::Create | Op::CreateSysv, Answer::Refused(kind)) if kind == "AlreadyExists" => {
            when(state.is_some(), state.clone())
        }
        (Op::OpenOrCreate, Answer::Got(identity)) => {
            when(state.is_none() || is(identity), Some(identity.clone()))
        }
        (Op::Replace, Answer::Got(new)) => vec![Some(new.clone())],
        (
            Op::Open | Op::OpenReadOnly | Op::Inspect | Op::WaitFor | Op::Take,
            Answer::Got(identity),
        ) => when(is(identity), Some(identity.clone())),
        (Op::Open | Op::OpenReadOnly | Op::Inspect | Op::Take, Answer::Refused(kind))
            if kind == "NotFound" =>
        {
            when(state.is_none(), None)
        }
        (Op::WaitFor, Answer::Refused(kind)) if kind == "TimedOut" => when(state.is_none(), None),
        (Op::Take, Answer::Refused(kind)) if kind == "Busy" => {
            let takers = all.iter().filter(|one| one.operation == Op::Take).count();
            when(state.is_some() && takers > 1, state.clone())
        }
        (Op::Remove, Answer::Done) => when(state.is_some(), None),
        (Op::Remove, Answer::Refused(kind)) if kind == "NotFound" => when(state.is_none(), None),
        (Op::List, Answer::Listed(names)) => when(
            match &names[..] {
                [] => state.is_none(),
                [name] => state.is_some() && name == super::operation::NAME,
                _ => false,
            },
            state.clone(),
        ),
        (Op::Collect, Answer::Collected(named, nameless)) => {
            // What has no name must not be what has one, or what is held.
            let mine =
                |identity: &String| frame.after.as_ref() == Some(identity) || !free(identity);
            if nameless.iter().any(mine) {
                return vec![];
            }
            match &named[..] {
                [] => same(),
                [one] => when(is(one) && free(one), None),
                _ => vec![],
            }
        }
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(operation: Operation, answer: Answer) -> Made {
        Made { operation, answer: Some(answer) }
    }

    fn id(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn only_answers_that_some_order_gives_are_explained() {
        use Operation::{Collect, Create, Open, Remove};
        let got = |name: &str| Answer::Got(name.to_owned());
        let refused = |kind: &str| Answer::Refused(kind.to_owned());
        let frame = |before, after| Frame { before, held: false, after };
        let two = [made(Create, got("a")), made(Create, refused("AlreadyExists"))];
        assert!(explains(&two, &frame(None, id("a"))));
        assert!(!explains(&two, &frame(None, None)));
        let both = [made(Create, got("a")), made(Create, got("b"))];
        assert!(!explains(&both, &frame(None, id("a"))));
        let neither =
            [made(Create, refused("AlreadyExists")), made(Create, refused("AlreadyExists"))];
        assert!(!explains(&neither, &frame(None, None)));
        let opened = [made(Remove, Answer::Done), made(Open, got("a"))];
        assert!(explains(&opened, &frame(id("a"), None)));
        assert!(!explains(&opened, &frame(id("b"), None)));
        let taken = [made(Collect, Answer::Collected(vec!["a".to_owned()], vec![]))];
        assert!(explains(&taken, &frame(id("a"), None)));
        let held = Frame { held: true, ..frame(id("a"), None) };
        assert!(!explains(&taken, &held));
    }
}
