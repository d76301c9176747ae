//! A microcontroller's sender: reads its sensors, makes a frame, writes it to the UART.
#![no_std]

use core::alloc::{GlobalAlloc, Layout};

use headwater_proto::serial::{Frame, Full};

unsafe extern "C" {
    /// What the board has: writes bytes to its UART.
    fn uart_write(bytes: *const u8, len: usize);
}

/// The library has parts that allocate; nothing here calls them, and so nothing is ever handed out.
struct Nothing;

unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Nothing = Nothing;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// A temperature in hundredths of a degree, as an integer sensor gives it, and what else there is.
fn readings(frame: &mut Frame<160>, centidegrees: i32) -> Result<(), Full> {
    frame.decimal("tank.temperature", "Cel", centidegrees.into(), 2)?;
    frame.f32("tank.level", "m", 1.37)?;
    frame.bool("tank.pump", "", centidegrees % 2 == 0)?;
    frame.i64("tank.pulses", "", i64::from(centidegrees) * 1_000_000_007)?;
    frame.f64("tank.pi", "", core::f64::consts::PI)?;
    frame.text("tank.state", "", "läuft")
}

/// Sends one frame: `seq` counts frames, `uptime_ms` comes from the board's timer.
#[unsafe(no_mangle)]
pub extern "C" fn send_readings(seq: u8, uptime_ms: u32, centidegrees: i32) {
    let mut frame = Frame::new(seq, uptime_ms, 0);
    // What has no room is left out.
    let _ = readings(&mut frame, centidegrees);
    let bytes = frame.finish();
    unsafe { uart_write(bytes.as_ptr(), bytes.len()) };
}
