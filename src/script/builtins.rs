//! Functions of the language itself that would not do here as Rhai has them: its `sleep` cannot be stopped and takes
//! times that end the thread; its `sort` swallows what the comparison throws, a stop included.

use std::cmp::Ordering;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rhai::{Array, Dynamic, Engine, EvalAltResult, FnPtr, NativeCallContext};

use super::errors::{Stop, throw};
use super::host::Host;
use super::types;
use crate::engine::error::Error;

type Raw<T> = Result<T, Box<EvalAltResult>>;

/// How long a sleeper goes without looking whether it should stop.
const NAP: Duration = Duration::from_millis(20);

/// Registers them over Rhai's own.
pub fn install(engine: &mut Engine, host: &Rc<Host>) {
    let h = Rc::clone(host);
    engine.register_fn("sleep", move |seconds: f64| sleep(&h, seconds));
    let h = Rc::clone(host);
    engine.register_fn("sleep", move |seconds: i64| sleep(&h, seconds as f64));
    for name in ["sort", "sort_by"] {
        engine.register_fn(name, |cx: NativeCallContext, list: &mut Array, compare: FnPtr| -> Raw<()> {
            *list = sorted(&cx, list, &compare)?;
            Ok(())
        });
    }
    for name in ["order", "order_by"] {
        engine.register_fn(name, |cx: NativeCallContext, list: Array, compare: FnPtr| -> Raw<Array> {
            sorted(&cx, &list, &compare)
        });
    }
}

fn sleep(host: &Host, seconds: f64) -> Raw<()> {
    if seconds.is_nan() || seconds <= 0.0 {
        return Ok(());
    }
    let length = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let start = Instant::now();
    loop {
        if let Some(stop) = host.out_of_time().or_else(|| host.cancel().is_set().then_some(Stop::Cancelled)) {
            return Err(host.stop(stop));
        }
        let left = length.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(NAP));
    }
}

/// A merge sort whatever the comparison says: one that contradicts itself gives some order, never a panic.
fn sorted(cx: &NativeCallContext, list: &Array, compare: &FnPtr) -> Raw<Array> {
    let ask = |a: &Dynamic, b: &Dynamic| -> Raw<Ordering> {
        let answer = compare.call_raw(cx, None, [a.clone(), b.clone()])?;
        // As in Rhai: `true` stands for "in this order".
        let number = answer.as_int().or_else(|_| answer.as_bool().map(|b| if b { -1 } else { 1 }));
        let number = number.or_else(|_| answer.as_float().map(|x| (x > 0.0) as i64 - (x < 0.0) as i64));
        number.map(|n| n.cmp(&0)).map_err(|_| {
            throw(
                Error::value("sort", "the comparison gave neither a number nor true or false")
                    .expected("below 0, 0, or above 0")
                    .got(types::got(&answer))
                    .hint("list.sort(|a, b| a - b)"),
            )
        })
    };
    let mut order: Vec<usize> = (0..list.len()).collect();
    let mut width = 1;
    while width < order.len() {
        let mut next = Vec::with_capacity(order.len());
        for pair in order.chunks(2 * width) {
            let (mut a, mut b) = pair.split_at(width.min(pair.len()));
            while let ([x, rest_a @ ..], [y, rest_b @ ..]) = (a, b) {
                if ask(&list[*x], &list[*y])? == Ordering::Greater {
                    next.push(*y);
                    b = rest_b;
                } else {
                    next.push(*x);
                    a = rest_a;
                }
            }
            next.extend_from_slice(a);
            next.extend_from_slice(b);
        }
        order = next;
        width *= 2;
    }
    Ok(order.into_iter().map(|i| list[i].clone()).collect())
}
