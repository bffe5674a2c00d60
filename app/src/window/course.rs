//! The course of a fine-tuning run: folded from its events while it goes on, and read from its report when it is history.

use std::sync::Arc;

use ullage_core::ledger::Tier;
use ullage_core::report::protocol::{Event, Numbered};
use ullage_core::report::{Report, Value};
use ullage_panels::view::{Course, Mark};

use super::document::choices;

/// Takes one more event of a run into its course; true when it changed.
pub fn add(course: &mut Arc<Course>, event: &Numbered, peak: u64) -> bool {
    let seconds = event.seconds;
    let mark = |step: u64, value: f64| Mark { step, seconds, bytes: peak, value };
    match &event.event {
        Event::Started { config, plan, .. } => {
            let Some(train) = &config.train else { return false };
            let course = Arc::make_mut(course);
            course.steps = train.steps as u64;
            course.label = choices(config);
            course.predicted_step_seconds = Some(plan.time.train_step_seconds).filter(|s| *s > 0.0);
            course.predicted_peak = plan.bytes.tiers.get(&Tier::Device).map(|a| a.peak);
        }
        Event::TrainStep { step, loss: Some(loss), seconds: took, .. } => {
            let course = Arc::make_mut(course);
            let made = course.loss.len() as f64;
            course.step_seconds = Some((course.step_seconds.unwrap_or(0.0) * made + took) / (made + 1.0));
            course.loss.push(mark(*step, *loss));
            course.peak = Some(peak).filter(|p| *p > 0);
        }
        Event::Validation { step, loss, token_accuracy, accuracy, .. } => {
            let course = Arc::make_mut(course);
            course.held_out.push(mark(*step, *loss));
            course.answers.extend(accuracy.map(|a| mark(*step, a)));
            course.tokens.extend(token_accuracy.map(|a| mark(*step, a)));
        }
        Event::Finished { measured, .. } => {
            // What only moments of a step held is known now.
            let Some(peak) = measured.tiers.get(&Tier::Device).map(|a| a.peak) else { return false };
            Arc::make_mut(course).peak = Some(peak);
        }
        _ => return false,
    }
    true
}

/// What there is to say of a training that is over: that it diverged, or came to nothing; empty where all is well.
fn verdict(report: &Report) -> String {
    let diverged = report.error.as_ref().filter(|e| e.diverged.is_some()).map(|e| e.message.clone());
    let collapsed = report.train.as_ref().and_then(|t| t.collapsed.as_ref()).map(|why| format!("collapsed: {why}"));
    diverged.or(collapsed).unwrap_or_default()
}

/// Takes in what `report`, which has heard `event`, says of a training at its end.
pub fn judge(course: &mut Arc<Course>, event: &Numbered, report: &Report) {
    if !matches!(event.event, Event::Finished { .. } | Event::Failed { .. }) {
        return;
    }
    let verdict = verdict(report);
    if !verdict.is_empty() {
        Arc::make_mut(course).verdict = verdict;
    }
}

/// Points of a loss that a course of the history keeps.
const KEPT: usize = 512;

/// The course of a run that is history; none when it did not train.
pub fn of(report: &Report, run: &str) -> Option<Course> {
    let (config, t) = (report.config.as_ref()?, report.train.as_ref()?);
    let train = config.train.as_ref()?;
    let peak = |r: &ullage_core::report::ByteReport| r.peak.get(&Tier::Device).copied();
    let bytes = peak(&report.measured).unwrap_or(0);
    let seconds =
        |curve: &str, i: usize| report.curves.get(curve).and_then(|c| c.get(i)).map_or(0.0, |(seconds, _)| *seconds);
    let marks = |curve: &str, values: &mut dyn Iterator<Item = (u64, f64)>| -> Vec<Mark> {
        values.enumerate().map(|(i, (step, value))| Mark { step, seconds: seconds(curve, i), bytes, value }).collect()
    };
    let every = t.steps_table.len().div_ceil(KEPT).max(1);
    let loss = marks("loss", &mut t.steps_table.iter().map(|(step, loss, ..)| (*step, *loss)));
    debug_assert!(report.curves.get("loss").is_none_or(|c| c.iter().all(|(_, v)| matches!(v, Value::Number(_)))));
    Some(Course {
        run: run.to_owned(),
        label: choices(config),
        verdict: verdict(report),
        steps: train.steps as u64,
        loss: loss.into_iter().step_by(every).collect(),
        held_out: marks("validation", &mut t.validation.iter().copied()),
        answers: marks("task_accuracy", &mut t.task_accuracy.iter().copied()),
        tokens: marks("token_accuracy", &mut t.token_accuracy.iter().copied()),
        peak: peak(&report.measured),
        predicted_peak: peak(&report.plan),
        step_seconds: Some(t.step_seconds).filter(|s| *s > 0.0),
        predicted_step_seconds: Some(report.predicted.train_step_seconds).filter(|s| *s > 0.0),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use ullage_core::config::Config;
    use ullage_core::config::train::Train;
    use ullage_core::ledger::{Account, Measured};

    /// A run's events: 30 steps, three validations.
    fn events() -> Vec<Numbered> {
        let config = Config { train: Some(Train { steps: 30, ..Train::default() }), ..Config::default() };
        let opened = super::super::opener::model("bundled:recall").unwrap();
        let machine = ullage_core::machine::Machine::default_guess();
        let plan = ullage_core::plan::plan(&opened.model.shape, &Default::default(), &config, &machine).unwrap();
        let mut all = vec![Event::Started {
            config: Box::new(config),
            plan: Box::new(plan),
            model: Default::default(),
            machine: Default::default(),
        }];
        let held = |step: u64, accuracy| Event::Validation {
            step,
            loss: 3.0 - step as f64 / 30.0,
            tokens: 9,
            token_accuracy: Some(0.5),
            accuracy,
            answers: 4,
        };
        all.push(held(0, Some(0.0)));
        for step in 1..=30 {
            all.push(Event::TrainStep {
                step,
                loss: Some(4.0 / step as f64),
                lr: 1e-3,
                grad_norm: 1.0,
                tokens: 8,
                computed: 8,
                seconds: 0.25,
            });
            if step == 15 {
                all.push(held(15, Some(0.25)));
            }
        }
        all.push(held(30, Some(0.75)));
        let mut measured = Measured::default();
        measured.tiers.insert(Tier::Device, Account { peak: 77, ..Account::default() });
        all.push(Event::Finished {
            measured: Box::new(measured),
            speed: Default::default(),
            program: Default::default(),
            extra: Default::default(),
        });
        all.into_iter().enumerate().map(|(i, event)| Numbered { n: i as u64 + 1, seconds: i as f64, event }).collect()
    }

    #[test]
    fn a_run_replayed_and_its_report_have_one_course() {
        let mut course = Arc::new(Course::default());
        let events = events();
        for e in &events {
            add(&mut course, e, 50);
        }
        let from_report = of(&Report::fold(&events), "run").unwrap();
        let strip = |c: &Course| {
            let plain = |m: &[Mark]| m.iter().map(|m| (m.step, m.seconds, m.value)).collect::<Vec<_>>();
            (plain(&c.loss), plain(&c.held_out), plain(&c.answers), plain(&c.tokens), c.peak, c.steps)
        };
        assert_eq!(strip(&course), strip(&from_report));
        assert_eq!((course.loss.len(), course.answers.len(), course.peak), (30, 3, Some(77)));
        assert_eq!(course.answers[2], Mark { step: 30, seconds: 33.0, bytes: 50, value: 0.75 });
        let seconds = |c: &Course| (c.step_seconds, c.predicted_step_seconds);
        assert!(course.step_seconds == Some(0.25) && course.predicted_step_seconds.is_some_and(|s| s > 0.0));
        assert!(course.predicted_peak.is_some_and(|p| p > 0) && course.predicted_peak == from_report.predicted_peak);
        assert_eq!(seconds(&from_report), seconds(&course));
    }

    /// A loss of 0 would be the best there ever was, and the collapse behind it would not be seen.
    #[test]
    fn a_step_without_a_target_is_in_no_curve_mean_or_judgement() {
        let mut events = events();
        for e in &mut events {
            match &mut e.event {
                Event::TrainStep { step: 1 | 30, loss, tokens, computed, seconds, .. } => {
                    (*loss, *tokens, *computed, *seconds) = (None, 0, 0, 1e3);
                }
                Event::TrainStep { step: 20.., loss, .. } => *loss = Some(5.0),
                _ => {}
            }
        }
        let text = serde_json::to_string(&events).unwrap();
        let events: Vec<Numbered> = serde_json::from_str(&text).unwrap();
        let mut course = Arc::new(Course::default());
        for e in &events {
            add(&mut course, e, 50);
        }
        let report = Report::fold(&events);
        let t = report.train.as_ref().unwrap();
        assert_eq!((t.steps, t.empty_steps, t.steps_table.len(), report.curves["loss"].len()), (30, 2, 28, 28));
        assert_eq!((t.first_loss, t.last_loss, t.step_seconds, t.tokens), (2.0, 5.0, 0.25, 28 * 8));
        assert!(t.collapsed.as_ref().is_some_and(|why| why.contains("of 28 steps")), "{:?}", t.collapsed);
        let history = of(&report, "run").unwrap();
        let plain = |m: &[Mark]| m.iter().map(|m| (m.step, m.seconds, m.value)).collect::<Vec<_>>();
        assert_eq!((plain(&course.loss), course.step_seconds), (plain(&history.loss), history.step_seconds));
        assert!(course.loss.iter().all(|m| m.value > 0.0) && course.loss[0].step == 2);
    }

    #[test]
    fn a_training_that_collapsed_or_diverged_says_so_live_and_in_history() {
        let with = |end: &dyn Fn(&mut Vec<Numbered>)| {
            let mut events = events();
            end(&mut events);
            let (mut course, mut report) = (Arc::new(Course::default()), Report::default());
            for e in &events {
                report.add(e);
                add(&mut course, e, 50);
                judge(&mut course, e, &report);
            }
            let history = of(&report, "run").unwrap();
            assert_eq!(course.verdict, history.verdict);
            history.verdict
        };
        assert_eq!(with(&|_| ()), "");
        let collapsed = with(&|events| {
            for e in events {
                if let Event::TrainStep { step: 20.., loss, .. } = &mut e.event {
                    *loss = Some(5.0);
                }
            }
        });
        assert!(collapsed.starts_with("collapsed: through the last 7 of 30 steps"), "{collapsed}");
        let diverged = with(&|events| {
            let place = ullage_core::Diverged { step: Some(9), ..ullage_core::Diverged::new("the loss", f64::NAN) };
            let error = ullage_core::Error::diverged(place, "lower train.lr");
            if let Some(last) = events.last_mut() {
                last.event = Event::Failed { error: (&error).into() };
            }
        });
        assert_eq!(diverged, "diverged: NaN in the loss at step 9; lower train.lr");
    }
}
