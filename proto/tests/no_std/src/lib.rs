//! Encodes and decodes without `std`, with an allocator that never gives back.
#![no_std]

extern crate alloc;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use headwater_proto::frame::{Compression, Encoding, Frame, seal};
use headwater_proto::{Batch, Body, Column, Limits, Readings, Series, SeriesSet, ValueType, Values, protobuf};

const HEAP: usize = 1 << 20;

/// Hands out a fixed heap, front to back.
struct Bump {
    heap: UnsafeCell<[u8; HEAP]>,
    used: AtomicUsize,
}

// Every byte is handed out once.
unsafe impl Sync for Bump {}

unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.heap.get() as usize;
        let mut place = 0;
        let next = |used: usize| {
            place = (base + used).next_multiple_of(layout.align()) - base;
            place.checked_add(layout.size()).filter(|end| *end <= HEAP)
        };
        match self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) {
            Ok(_) => (base + place) as *mut u8,
            Err(_) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump { heap: UnsafeCell::new([0; HEAP]), used: AtomicUsize::new(0) };

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Both encodings there and back. 0: the readings came back as they were.
#[unsafe(no_mangle)]
pub extern "C" fn headwater_goes_round() -> i32 {
    let limits = Limits::default();
    let metric = String::from("temp");
    let series = Series { metric: metric.clone(), unit: String::new(), value_type: ValueType::F64 };
    let series = SeriesSet::new(vec![series], 0);
    let values: Vec<f64> = (0..60).map(|i| f64::from(2000 + i * i % 7) / 100.0).collect();
    let column = Column { metric, unit: String::new(), times: 0, values: Values::F64(values), suspect: Vec::new() };
    let times = (0..60).map(|i| i * 1_000_000).collect();
    let body = Body::Readings(Readings { times: vec![times], columns: vec![column], ..Readings::default() });

    for encoding in [Encoding::Postcard, Encoding::Protobuf] {
        let Ok(sealed) = seal(&body, &series, encoding, Compression::None, &limits) else {
            return 1;
        };
        let frame = sealed.frame(1, 1);
        let back = Frame::parse(&frame, &limits).and_then(|frame| frame.body(Some(&series), &limits));
        if back.as_ref() != Ok(&body) {
            return 2;
        }
    }
    let batch = Batch { body, ..Batch::default() };
    match protobuf::decode(&protobuf::encode(&batch), &limits) {
        Ok(back) if back == batch => 0,
        _ => 3,
    }
}
