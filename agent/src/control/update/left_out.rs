//! A build that leaves updates out.

use std::time::{Duration, Instant};

use super::Controller;
use super::command::Outcome;

#[derive(Default)]
pub(super) struct Updates;

impl Updates {
    pub(super) fn on_trial(&self) -> bool {
        false
    }

    pub(super) fn stop(&mut self, _: Duration) {}

    pub(super) async fn fetched(&mut self) -> bool {
        std::future::pending().await
    }
}

impl Controller {
    pub(super) async fn open_updates(&mut self) {}

    pub(super) async fn update(&mut self, _: &str, _: &[String]) -> (Outcome, bool) {
        let why = "this build leaves updates out; build with the feature `update`";
        (Outcome::refused(why), false)
    }

    pub(super) async fn fetched(&mut self, _: bool) {}

    pub(super) async fn look_at_update(&mut self, _: Instant) {}
}
