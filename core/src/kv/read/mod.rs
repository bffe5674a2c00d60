//! kv.read: which rows a query looks at.

mod all;
mod quest;

use super::Read;
use super::cache::LayerCache;
use crate::ops::cpu::KvTiles;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Read>] = &[&all::ENTRY, &quest::ENTRY];

/// The rows of chosen pages as attention reads them: as if no others were held. A head of the call is a query head, or a
/// key–value head, by who chooses.
pub struct Chosen<'a> {
    cache: &'a LayerCache,
    lists: &'a [u32],
    stride: usize,
    per: usize,
    page: usize,
}

impl<'a> Chosen<'a> {
    /// Of `lists` `(heads, stride)`, each the number of its pages and then the pages, ascending, the last one held among them;
    /// `per` lists in a row belong to one KV head.
    pub fn new(cache: &'a LayerCache, lists: &'a [u32], stride: usize, per: usize) -> Self {
        let page = cache.heads_layout().page.map_or(1, |p| p.rows);
        Self { cache, lists, stride, per: per.max(1), page }
    }

    fn pages(&self, head: usize) -> &[u32] {
        let list = &self.lists[head * self.stride..(head + 1) * self.stride];
        &list[1..=list[0] as usize]
    }

    /// Rows of one page of a list's head.
    fn page_rows(&self, head: usize, page: u32) -> usize {
        self.page.min(self.cache.rows(head / self.per) - page as usize * self.page)
    }

    /// Calls `f` with the KV head, the first row, the number of rows and where they come, for each run of rows
    /// `start..start + n` of those chosen.
    fn runs(&self, head: usize, start: usize, n: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
        let mut done = 0;
        while done < n {
            let (at, first) = ((start + done) / self.page, (start + done) % self.page);
            let take = (self.page - first).min(n - done);
            f(head / self.per, self.pages(head)[at] as usize * self.page + first, take, done);
            done += take;
        }
    }

    /// Puts what stands in a row of one element for each chosen row of `head` to the places of all rows held; the rest becomes
    /// the default.
    pub fn spread<T: Copy + Default>(&self, head: usize, row: &mut [T]) {
        let mut end = row.len();
        for (i, page) in self.pages(head).iter().enumerate().rev() {
            let (start, n) = (*page as usize * self.page, self.page_rows(head, *page));
            row.copy_within(i * self.page..i * self.page + n, start);
            row[start + n..end].fill(T::default());
            end = start;
        }
        row[..end].fill(T::default());
    }
}

impl KvTiles for Chosen<'_> {
    fn rows(&self, head: usize) -> usize {
        self.pages(head).iter().map(|page| self.page_rows(head, *page)).sum()
    }

    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        let d = self.cache.layout().d;
        self.runs(head, start, n, |kv, row, take, at| self.cache.keys(kv, row, take, &mut out[at * d..]));
    }

    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        let d = self.cache.layout().d;
        self.runs(head, start, n, |kv, row, take, at| self.cache.values(kv, row, take, &mut out[at * d..]));
    }
}
