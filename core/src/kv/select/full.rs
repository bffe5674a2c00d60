//! Every row stays.

use crate::config::KvBudget;
use crate::kv::{HeadView, Rhythm, Select};
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Select> = Entry {
    about: About {
        id: "full",
        title: "All",
        common: true,
        paper: "the plain cache",
        sentence: "Every token stays.",
        composes: |config| match config.kv.budget {
            Some(KvBudget::Rows(rows)) if rows < config.run.context => Err(format!(
                "`full` keeps every token, but kv.budget.rows = {rows} is below run.context = {}; choose another kv.select or drop the budget",
                config.run.context
            )),
            Some(KvBudget::Ratio(ratio)) if ratio < 1.0 => Err(format!(
                "`full` keeps every token, but kv.budget.ratio = {ratio}; choose another kv.select or drop the budget"
            )),
            _ => Ok(()),
        },
        runs_on: ON_ALL,
        ..About::on(&axes::KV_SELECT)
    },
    build: |_| Ok(Box::new(Full)),
};

struct Full;

impl Select for Full {
    fn own_rows(&self, _prompt: usize) -> Option<usize> {
        None
    }

    fn keeps_all(&self) -> bool {
        true
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm::Once
    }

    fn keep(&self, view: HeadView<'_>, keep: &mut [u32]) -> usize {
        for (i, slot) in keep.iter_mut().enumerate() {
            *slot = i as u32;
        }
        view.rows
    }
}
