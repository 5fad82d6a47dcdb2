//! Histories: made as they are played, played again, and cut to what shows a disagreement.

use super::{Disagreement, Seen, World};
use crate::generator::{History, Shape, Step};

/// Plays one history to its end or to the first disagreement. Returns what happened; `steps` are made as it goes.
pub fn explore(seed: u64, length: usize, seen: &mut Seen) -> Result<(), Box<(History, Disagreement)>> {
    let mut shape = Shape::new(seed);
    let mut history = History { operator: shape.operator.clone(), steps: Vec::new() };
    let mut world = World::new(&history.operator);
    let mut result = Ok(());
    for _ in 0..length {
        let step = shape.step(&world.model);
        history.steps.push(step);
        if let Err(disagreement) = world.step(&history.steps[history.steps.len() - 1]) {
            result = Err(Box::new((history, *disagreement)));
            break;
        }
    }
    for (what, times) in world.seen {
        *seen.entry(what).or_default() += times;
    }
    result
}

/// Plays a history that is already there.
pub fn replay(history: &History) -> Option<(usize, Disagreement)> {
    let mut world = World::new(&history.operator);
    for (index, step) in history.steps.iter().enumerate() {
        if let Err(disagreement) = world.step(step) {
            return Some((index, *disagreement));
        }
    }
    None
}

/// The shortest history with the same disagreement that leaving things out leads to.
pub fn shrink(mut history: History, about: &str) -> History {
    let same = |candidate: &History| replay(candidate).is_some_and(|(_, d)| d.about == about);
    loop {
        let mut smaller = None;
        for candidate in smaller_ones(&history) {
            if same(&candidate) {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(candidate) => history = candidate,
            None => return history,
        }
    }
}

/// Each history that lacks one thing of this one.
fn smaller_ones(history: &History) -> Vec<History> {
    let mut all = Vec::new();
    for index in 0..history.steps.len() {
        let mut without = history.clone();
        without.steps.remove(index);
        all.push(without);
    }
    for (index, step) in history.steps.iter().enumerate() {
        let mut shorter: Vec<Step> = Vec::new();
        for field in 0..step.request.fields.len() {
            let mut step = step.clone();
            step.request.fields.remove(field);
            shorter.push(step);
        }
        for field in 0..step.first.as_ref().map_or(0, |r| r.fields.len()) {
            let mut step = step.clone();
            if let Some(first) = &mut step.first {
                first.fields.remove(field);
            }
            shorter.push(step);
        }
        for field in 0..step.second.as_ref().map_or(0, |r| r.fields.len()) {
            let mut step = step.clone();
            if let Some(second) = &mut step.second {
                second.fields.remove(field);
            }
            shorter.push(step);
        }
        if step.second.is_some() {
            shorter.push(Step { second: None, ..step.clone() });
        }
        if step.delay != 0 {
            shorter.push(Step { delay: 0, ..step.clone() });
        }
        for step in shorter {
            let mut candidate = history.clone();
            candidate.steps[index] = step;
            all.push(candidate);
        }
    }
    all
}
