//! Worker threads: one name each, bounded both ways.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Called when something has come for the window: asks for a frame.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Messages that may wait for the window before a worker waits too.
const INBOX: usize = 256;
/// Orders that may wait for a worker.
const ORDERS: usize = 64;

/// What went wrong, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What failed.
    pub title: String,
    /// Why, and what to do.
    pub detail: String,
}

/// A worker's way to the window: a bounded channel of messages `M`, and the wish for a frame.
pub struct Outbox<M> {
    to: SyncSender<M>,
    wake: Wake,
}

impl<M> Clone for Outbox<M> {
    fn clone(&self) -> Self {
        Self { to: self.to.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<M> Outbox<M> {
    /// An outbox and where its messages arrive.
    pub fn new(wake: Wake) -> (Self, Receiver<M>) {
        let (to, inbox) = sync_channel(INBOX);
        (Self { to, wake }, inbox)
    }

    /// Sends, waiting for room. A window that is gone hears nothing.
    pub fn send(&self, message: M) {
        if self.to.send(message).is_ok() {
            (self.wake)();
        }
    }

    /// Sends if there is room now; otherwise gives the message back.
    pub fn offer(&self, message: M) -> Result<(), Box<M>> {
        match self.to.try_send(message) {
            Ok(()) => {
                (self.wake)();
                Ok(())
            }
            Err(TrySendError::Full(message)) => Err(Box::new(message)),
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

/// A thread that does one order after the other. A panic in an order is sent as [`Trouble`] and ends that order alone.
pub struct Worker<T> {
    orders: Option<SyncSender<T>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread of this name; each order goes to `work`.
    pub fn start<M: From<Trouble> + Send + 'static>(
        name: &'static str,
        outbox: Outbox<M>,
        mut work: impl FnMut(T, &Outbox<M>) + Send + 'static,
    ) -> Self {
        let (orders, inbox) = sync_channel::<T>(ORDERS);
        let run = move || {
            while let Ok(order) = inbox.recv() {
                if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| work(order, &outbox))) {
                    let trouble = Trouble { title: format!("{name} failed"), detail: panic_text(&*panic) };
                    outbox.send(trouble.into());
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run).ok();
        Self { orders: thread.is_some().then_some(orders), thread }
    }

    /// Hands over an order; false when the worker cannot take one.
    pub fn order(&self, order: T) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok())
    }

    /// Does what was ordered, then ends.
    pub fn finish(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let words =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a defect of Ullage (please report it): {}", words.unwrap_or_else(|| "a panic without words".into()))
}

/// Room for one order, the newest: what was not begun is replaced.
pub struct Slot<T> {
    inner: Arc<(Mutex<Held<T>>, Condvar)>,
}

struct Held<T> {
    newest: Option<T>,
    closed: bool,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { inner: Arc::new((Mutex::new(Held { newest: None, closed: false }), Condvar::new())) }
    }
}

impl<T> Slot<T> {
    /// Puts an order in, in place of one that waits.
    pub fn put(&self, order: T) {
        let (held, bell) = &*self.inner;
        held.lock().unwrap_or_else(PoisonError::into_inner).newest = Some(order);
        bell.notify_one();
    }

    /// Waits for an order; `None` when closed.
    pub fn take(&self) -> Option<T> {
        let (held, bell) = &*self.inner;
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if held.closed {
                return None;
            }
            match held.newest.take() {
                Some(order) => return Some(order),
                None => held = bell.wait(held).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// True when what is being done is outdated.
    pub fn waiting(&self) -> bool {
        let held = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.closed || held.newest.is_some()
    }

    /// Ends whoever takes.
    pub fn close(&self) {
        let (held, bell) = &*self.inner;
        held.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        bell.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_the_newest_order_alone() {
        let slot = Slot::default();
        slot.put(1);
        slot.put(2);
        assert!(slot.waiting());
        assert_eq!(slot.take(), Some(2));
        assert!(!slot.waiting());
        slot.put(3);
        slot.close();
        assert_eq!(slot.take(), None, "closed means outdated");
    }

    #[test]
    fn a_panic_ends_the_order_and_the_next_is_done() {
        let (outbox, inbox) = Outbox::<Trouble>::new(Arc::new(|| ()));
        let mut worker = Worker::start("test-worker", outbox, |n: u32, outbox: &Outbox<Trouble>| {
            assert!(n != 1, "one is refused");
            outbox.send(Trouble { title: n.to_string(), detail: String::new() });
        });
        assert!(worker.order(1) && worker.order(2));
        worker.finish();
        let told: Vec<_> = inbox.try_iter().collect();
        let [Trouble { title, detail }, Trouble { title: two, .. }] = &told[..] else { panic!() };
        assert!(title.contains("test-worker") && detail.contains("one is refused"), "{detail}");
        assert_eq!(two, "2");
    }
}
