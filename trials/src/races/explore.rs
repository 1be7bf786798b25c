//! Every order of the steps of some processes, with at most so many preemptions.
//!
//! Depth first, each order from the beginning: the choices of an order are repeated up to the
//! last one that can be made otherwise, and from there on whoever moves goes on moving. To take
//! the turn from somebody who could go on is a preemption; when he ended, the choice is free. When
//! he waits, it goes to the one who has not moved for longest, and any other choice counts as one. Most errors of this kind need very few preemptions, and there are few orders with few.

/// One choice: who could move, who did, and what it cost.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The one that is tried first, then the others.
    options: Vec<usize>,
    picked: usize,
    /// Preemptions before this choice.
    before: u32,
    /// Whether any other than the first option is a preemption.
    costs: bool,
}

/// The choices of one order, as it is made.
#[derive(Debug, Default)]
pub struct Order {
    prefix: Vec<usize>,
    choices: Vec<Choice>,
    /// Choices of the prefix that could not be made.
    pub diverged: u64,
}

impl Order {
    /// Who moves next, of those who can, in order of preference; whether it is `free` to choose
    /// another than the first.
    pub fn pick(&mut self, options: &[usize], free: bool) -> usize {
        let before = self.choices.last().map_or(0, Choice::after);
        let wanted = self.prefix.get(self.choices.len()).copied();
        let picked = wanted.filter(|who| options.contains(who)).unwrap_or(options[0]);
        self.diverged += u64::from(wanted.is_some_and(|wanted| wanted != picked));
        self.choices.push(Choice { options: options.to_vec(), picked, before, costs: !free });
        picked
    }

    /// The next order, if there is one with at most `bound` preemptions.
    pub fn next(&self, bound: u32) -> Option<Self> {
        for index in (0..self.choices.len()).rev() {
            let choice = &self.choices[index];
            let at = choice.options.iter().position(|&who| who == choice.picked)?;
            let Some(&other) = choice.options.get(at + 1) else { continue };
            if choice.before + u32::from(choice.costs) > bound {
                continue;
            }
            let mut prefix: Vec<usize> = self.choices[..index].iter().map(|c| c.picked).collect();
            prefix.push(other);
            return Some(Self { prefix, ..Self::default() });
        }
        None
    }

    /// Who moved, one digit for each step.
    pub fn text(&self) -> String {
        self.choices.iter().map(|choice| choice.picked.to_string()).collect()
    }
}

impl Choice {
    fn after(&self) -> u32 {
        self.before + u32::from(self.costs && self.picked != self.options[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// All orders of so many steps each, with at most so many preemptions.
    fn orders(steps: [u32; 2], bound: u32) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut order = Some(Order::default());
        while let Some(mut now) = order {
            let (mut left, mut last) = (steps, None);
            while left != [0, 0] {
                let mut runnable: Vec<usize> = (0..2).filter(|&who| left[who] > 0).collect();
                runnable.sort_by_key(|&who| Some(who) != last);
                let goes_on = runnable.first().copied() == last;
                let who = now.pick(&runnable, !goes_on);
                left[who] -= 1;
                last = Some(who);
            }
            assert!(all.insert(now.text()), "{} came twice", now.text());
            order = now.next(bound);
        }
        all
    }

    #[test]
    fn every_order_comes_once_and_none_with_more_preemptions() {
        // All of them: four of eight steps.
        assert_eq!(orders([4, 4], 8).len(), 70);
        let none = orders([3, 3], 0);
        assert_eq!(none, ["000111", "111000"].map(str::to_owned).into());
        let one = orders([2, 2], 1);
        let expected = ["0011", "1100", "0110", "1001"];
        assert_eq!(one, expected.map(str::to_owned).into());
        assert!(orders([4, 4], 2).is_superset(&orders([4, 4], 1)));
    }
}
