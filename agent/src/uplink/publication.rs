//! What is published, and how.

use std::sync::Arc;

use headwater_proto::frame::{self, Compression, Encoding};
use headwater_proto::topic::Kind;
use headwater_proto::{Body, Limits, SeriesSet};

use crate::clock::Correction;
use crate::journal::{Content, Record};
use crate::sealer::correct;

/// A message to publish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Publication {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

impl Publication {
    pub(super) fn control(kind: Kind, message: &impl headwater_proto::Message) -> Self {
        Self {
            kind,
            payload: frame::seal_control(message),
        }
    }

    /// Data travels at QoS 0: the relay's own acknowledgement is what counts. All else at QoS 1.
    pub(crate) fn at_least_once(&self) -> bool {
        self.kind != Kind::Data
    }

    /// Whether the broker keeps it for those who subscribe later.
    pub(crate) fn retained(&self) -> bool {
        matches!(self.kind, Kind::Hello | Kind::Series | Kind::Status)
    }
}

/// A record as the payload of a data message, its times corrected, and the set it needs. `None` only if it cannot be encoded, which is
/// logged.
pub(super) fn data(
    record: &Record,
    short: u32,
    correction: Option<&Correction>,
) -> Option<(Vec<u8>, Option<Arc<SeriesSet>>)> {
    match &record.content {
        Content::Batch { sealed, series, .. } => {
            let corrected =
                correction.and_then(|correction| correct(sealed, series, correction, &Limits::default()));
            let sealed = corrected.as_ref().unwrap_or(sealed);
            Some((sealed.frame(short, record.seq), Some(series.clone())))
        }
        Content::Loss(loss) => {
            let none = SeriesSet::new(Vec::new(), 0);
            let body = Body::Loss(*loss);
            match frame::seal(
                &body,
                &none,
                Encoding::Postcard,
                Compression::None,
                &Limits::default(),
            ) {
                Ok(sealed) => Some((sealed.frame(short, record.seq), None)),
                Err(error) => {
                    log::error!("the loss record {} cannot be encoded: {error}", record.seq);
                    None
                }
            }
        }
    }
}
