//! The tasks of a worker that send copies, each one copy after the other: a copy then costs no task, no timer and no place in
//! any list of its own.
//!
//! A copy that was offered waits here until the worker has nothing else to do than to look for news of its sockets, and has
//! looked once: so the answer that its request got is written before, and whoever sent a request meanwhile is served first.
//! There are never more of them than copies under way.

use super::local::Worker;
use super::replica::{Copy, Replica};
use super::ticket::Hold;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::time::sleep;

/// A copy to be sent, with what it holds of the process.
pub struct Errand {
    /// The copy.
    pub copy: Copy,
    /// What it takes.
    pub hold: Hold,
    /// The copy of the request's body.
    pub body: Option<Replica>,
}

/// The couriers of a worker, and what waits for them.
#[derive(Default)]
pub struct Couriers {
    waiting: RefCell<VecDeque<Errand>>,
    /// Whether one of them is called for all that waits.
    called: Cell<bool>,
    /// Those who have nothing to do; who rested last goes first.
    resting: RefCell<Vec<Rc<Bell>>>,
    all: RefCell<Vec<Rc<Bell>>>,
}

/// Calls a courier.
struct Bell {
    waker: Waker,
    rung: Cell<Option<Call>>,
}

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// To wait until it is time to go, and to call the others then: that costs one turn for many copies.
    First,
    /// To go.
    Next,
}

impl Couriers {
    /// Has it sent.
    pub fn take(&self, worker: &Rc<Worker>, errand: Errand) {
        self.waiting.borrow_mut().push_back(errand);
        if !self.called.replace(true) {
            self.call(worker, Call::First);
        }
    }

    /// Tells all of them to look whether the worker drains.
    pub fn alert(&self) {
        self.all.borrow().iter().for_each(|bell| bell.waker.wake_by_ref());
    }

    fn call(&self, worker: &Rc<Worker>, call: Call) {
        let rested = self.resting.borrow_mut().pop();
        match rested {
            Some(bell) => bell.ring(call),
            None => {
                tokio::task::spawn_local(carry(Rc::clone(worker), call));
            }
        }
    }

    /// It is time to go: whoever calls this takes one errand, and others those that wait besides.
    fn go(&self, worker: &Rc<Worker>) {
        self.called.set(false);
        let others = self.waiting.borrow().len().saturating_sub(1);
        (0..others).for_each(|_| self.call(worker, Call::Next));
    }

    fn next(&self) -> Option<Errand> {
        self.waiting.borrow_mut().pop_front()
    }

    fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Waits to be called; none if enough others do.
    async fn rest(&self, bell: &Rc<Bell>) -> Option<Call> {
        {
            let mut resting = self.resting.borrow_mut();
            if resting.len() >= RESTING_MAX {
                return None;
            }
            resting.push(Rc::clone(bell));
        }
        // Sockets and timers of earlier errands may wake it as well.
        Some(poll_fn(|_| bell.rung.take().map_or(Poll::Pending, Poll::Ready)).await)
    }

    fn dismiss(&self, bell: &Rc<Bell>) {
        self.all.borrow_mut().retain(|other| !Rc::ptr_eq(other, bell));
    }
}

impl Bell {
    fn ring(&self, call: Call) {
        self.rung.set(Some(call));
        self.waker.wake_by_ref();
    }
}

/// One courier's work.
async fn carry(worker: Rc<Worker>, call: Call) {
    let couriers = &worker.couriers;
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let bell = Rc::new(Bell { waker, rung: Cell::new(None) });
    couriers.all.borrow_mut().push(Rc::clone(&bell));
    // One timer for all its copies: to set it anew for a later time costs next to nothing.
    let mut alarm = pin!(sleep(Duration::ZERO));
    let mut called = Some(call);
    while let Some(call) = called {
        if call == Call::First {
            tokio::task::yield_now().await;
            couriers.go(&worker);
        }
        while let Some(Errand { copy, hold, body }) = couriers.next() {
            copy.run(hold, body, alarm.as_mut()).await;
            // What came meanwhile waits for its time, too.
            if !couriers.is_idle() {
                tokio::task::yield_now().await;
            }
        }
        called = couriers.rest(&bell).await;
    }
    couriers.dismiss(&bell);
}

/// Couriers of a worker that are kept for later: as many as copies may be under way by default.
const RESTING_MAX: usize = 64;
