//! The allocator of the program: large blocks that are freed are kept for the next request of their size.
//!
//! A network pass asks for the same large blocks again and again. The system's allocator gives each back to the
//! kernel and gets fresh pages, and every page costs a fault and a clearing: 15 to 30 % of a pass. [`Reuse`] keeps
//! them instead, in size classes at most an eighth apart.
//!
//! What is kept does not raise the process's peak by more than [`SLACK`]: before fresh memory is asked for, kept blocks
//! that did not fit are given back. [`trim`] gives back the rest, between one piece of work and the next.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blocks of this many bytes or fewer go to the system's allocator, which is good at them.
const SMALL: usize = 1 << 18;

/// Blocks of more bytes are rare, and go to the system too.
const LARGE: usize = 1 << 34;

/// Classes per doubling of the size.
const STEPS: usize = 8;

const CLASSES: usize = STEPS * (LARGE.ilog2() - SMALL.ilog2()) as usize;

/// By how many bytes live and kept blocks together may exceed what was live at the highest point so far.
pub const SLACK: usize = 128 << 20;

/// A kept block, at its own beginning.
struct Node {
    next: *mut Node,
}

struct Lists {
    heads: [*mut Node; CLASSES],
    /// When a class was last asked for or given back to.
    used: [u64; CLASSES],
    clock: u64,
    /// Bytes of large blocks that the program holds.
    live: usize,
    /// Bytes of kept blocks.
    kept: usize,
    /// Highest value of `live`.
    peak: usize,
}

// SAFETY: the pointers are the only ones to blocks that nobody else uses; whoever has the lists may use them on any
// thread.
unsafe impl Send for Lists {}

static LISTS: Mutex<Lists> = Mutex::new(Lists {
    heads: [ptr::null_mut(); CLASSES],
    used: [0; CLASSES],
    clock: 0,
    live: 0,
    kept: 0,
    peak: 0,
});

fn lists() -> MutexGuard<'static, Lists> {
    // Nothing panics while the lock is held.
    LISTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The class of a size, and the size of its blocks: `size` rounded up by at most an eighth.
fn class(size: usize) -> (usize, usize) {
    let bits = (size - 1).ilog2();
    let step = 1 << (bits - STEPS.ilog2());
    let rounded = size.next_multiple_of(step);
    let within = (rounded - (1 << bits)) / step;
    ((bits - SMALL.ilog2()) as usize * STEPS + within - 1, rounded)
}

/// The size of the blocks of a class.
fn class_size(class: usize) -> usize {
    let base = SMALL << (class / STEPS);
    base + base / STEPS * (class % STEPS + 1)
}

/// How a block of a class is asked of the system.
fn class_layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, 4096).ok()
}

/// Whether blocks of this layout are kept. Depends on the layout only, which is the same when the block comes back.
fn is_kept(layout: Layout) -> bool {
    layout.size() > SMALL && layout.size() <= LARGE && layout.align() <= 4096
}

impl Lists {
    fn touch(&mut self, class: usize) {
        self.clock += 1;
        self.used[class] = self.clock;
    }

    /// A kept block of the class.
    fn take(&mut self, class: usize, size: usize) -> Option<*mut u8> {
        self.touch(class);
        let node = self.heads[class];
        if node.is_null() {
            return None;
        }
        // SAFETY: a pointer in the lists is that of a whole block of its class, which `keep` wrote a node to.
        self.heads[class] = unsafe { (*node).next };
        self.kept -= size;
        Some(node.cast())
    }

    fn keep(&mut self, class: usize, size: usize, block: *mut u8) {
        self.touch(class);
        let node = block.cast::<Node>();
        // SAFETY: the block has more than `SMALL` bytes, is aligned to a page and belongs to nobody.
        unsafe { node.write(Node { next: self.heads[class] }) };
        self.heads[class] = node;
        self.kept += size;
    }

    /// Gives kept blocks back, those of the class that was used longest ago first, until at most `bytes` are kept.
    fn shrink(&mut self, bytes: usize) {
        while self.kept > bytes {
            let oldest = (0..CLASSES).filter(|c| !self.heads[*c].is_null()).min_by_key(|c| self.used[*c]);
            let Some(class) = oldest else { return };
            let size = class_size(class);
            let (Some(block), Some(layout)) = (self.take_quietly(class, size), class_layout(size)) else {
                return;
            };
            // SAFETY: every block of the lists came from `System` with the layout of its class.
            unsafe { System.dealloc(block, layout) };
        }
    }

    /// [`Lists::take`] that does not count as use.
    fn take_quietly(&mut self, class: usize, size: usize) -> Option<*mut u8> {
        let used = self.used[class];
        let block = self.take(class, size);
        self.used[class] = used;
        block
    }
}

/// Gives kept blocks back to the system until at most `bytes` are kept.
pub fn trim(bytes: usize) {
    let mut lists = lists();
    lists.shrink(bytes);
    lists.peak = lists.live;
}

/// Bytes that are kept for the next request.
pub fn kept() -> usize {
    lists().kept
}

/// The system's allocator, with large blocks kept for reuse.
#[derive(Debug)]
pub struct Reuse;

impl Reuse {
    /// A block for `layout`, with any contents.
    fn block(layout: Layout) -> *mut u8 {
        let (class, size) = class(layout.size());
        let Some(fresh) = class_layout(size) else { return ptr::null_mut() };
        {
            let mut lists = lists();
            lists.live += size;
            if let Some(block) = lists.take(class, size) {
                return block;
            }
            let room = lists.peak.saturating_add(SLACK).saturating_sub(lists.live);
            lists.shrink(room);
            lists.peak = lists.peak.max(lists.live);
        }
        // SAFETY: the size is not zero.
        let block = unsafe { System.alloc(fresh) };
        if block.is_null() {
            let mut lists = lists();
            lists.live -= size;
            // Perhaps the memory that is missing is kept here.
            lists.shrink(0);
        }
        block
    }
}

// SAFETY: for a layout that `is_kept` says no to, every call is passed on to `System`. Otherwise a block comes from
// `System` with the layout of its class, whose size is at least the one asked for and whose alignment is at least 4096, the
// highest that `is_kept` lets in; it is handed out to one owner at a time, since the lists hold exactly the blocks
// that were given back and not handed out again, and change under a lock. No call unwinds: nothing in them panics.
unsafe impl GlobalAlloc for Reuse {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_kept(layout) {
            return Self::block(layout);
        }
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_kept(layout) {
            let block = Self::block(layout);
            if !block.is_null() {
                // SAFETY: the block is ours and at least that long.
                unsafe { block.write_bytes(0, layout.size()) };
            }
            return block;
        }
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_kept(layout) {
            let (class, size) = class(layout.size());
            let mut lists = lists();
            lists.live -= size;
            lists.keep(class, size, block);
            return;
        }
        // SAFETY: a block of such a layout came from `System`, with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` is not zero and fits isize with this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_kept(layout), is_kept(new)) {
            // SAFETY: the block came from `System`, and the new one goes back to it.
            (false, false) => unsafe { System.realloc(block, layout, size) },
            (true, true) if class(layout.size()).0 == class(size).0 => block,
            _ => {
                // SAFETY: the new block is another one, and both hold at least the bytes that are copied.
                unsafe {
                    let other = self.alloc(new);
                    if !other.is_null() {
                        ptr::copy_nonoverlapping(block, other, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    other
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_their_sizes() {
        for size in [SMALL + 1, 300_000, 1 << 19, (1 << 19) + 1, 10_485_760, 83_886_080, LARGE - 1, LARGE] {
            let (index, rounded) = class(size);
            assert!(rounded >= size && rounded - size <= size / 8, "{size}: {rounded}");
            assert_eq!(class_size(index), rounded, "{size}");
            assert_eq!(class(rounded), (index, rounded));
            assert!(index < CLASSES);
        }
    }

    /// Blocks of every kind of life: contents stay, zeroed ones are zero, growing keeps what was there.
    #[test]
    fn blocks_hold_what_was_written() {
        let allocator = Reuse;
        for size in [100, SMALL, SMALL + 1, 3 << 20, 5_000_001] {
            let layout = Layout::from_size_align(size, 64).unwrap();
            for round in 1..4u8 {
                // SAFETY: sizes are not zero, accesses stay within them, and each block is freed once, as it was made.
                unsafe {
                    let a = allocator.alloc(layout);
                    let b = allocator.alloc_zeroed(layout);
                    assert!(!a.is_null() && !b.is_null() && a != b);
                    assert!((0..size).step_by(97).all(|i| *b.add(i) == 0));
                    a.write_bytes(round, size);
                    b.write_bytes(77, size);
                    let a = allocator.realloc(a, layout, size * 2);
                    assert!((0..size).step_by(97).all(|i| *a.add(i) == round));
                    let doubled = Layout::from_size_align(size * 2, 64).unwrap();
                    let a = allocator.realloc(a, doubled, size + 1);
                    assert!((0..size).step_by(97).all(|i| *a.add(i) == round));
                    allocator.dealloc(a, Layout::from_size_align(size + 1, 64).unwrap());
                    allocator.dealloc(b, layout);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_goes_back_when_told() {
        let layout = Layout::from_size_align(7 << 20, 8).unwrap();
        // SAFETY: the block is freed once, as it was made.
        unsafe {
            let block = Reuse.alloc(layout);
            block.write_bytes(1, layout.size());
            Reuse.dealloc(block, layout);
        }
        trim(0);
        assert!(kept() < 7 << 20);
    }

    #[test]
    fn threads_get_blocks_of_their_own() {
        std::thread::scope(|scope| {
            for id in 0..8u8 {
                scope.spawn(move || {
                    for round in 0..200usize {
                        let size = SMALL + 1 + (round * 7919 + id as usize * 104_729) % 900_000;
                        let layout = Layout::from_size_align(size, 8).unwrap();
                        // SAFETY: as above.
                        unsafe {
                            let block = Reuse.alloc(layout);
                            block.write_bytes(id, size);
                            std::thread::yield_now();
                            assert!((0..size).step_by(4001).all(|i| *block.add(i) == id));
                            Reuse.dealloc(block, layout);
                        }
                    }
                });
            }
        });
    }
}
