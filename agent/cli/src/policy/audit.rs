//! `sluice policy audit`: what audited policies would have dropped.

use serde::Serialize;
use sluice_maps::{Maps, MapsError};

use crate::{
    drops,
    output::{self, Answer},
};

/// Flows that passed, and that audited policies would have dropped.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Audit {
    /// How many there were since the maps were made, of those below and of others.
    would_drop_total: u64,
    would_drop: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// The policies to blame: the rule's, else those audited ones that would isolate the pod; none when they are gone.
    policies: Vec<String>,
    #[serde(flatten)]
    record: drops::Row,
}

/// Reads the records, the latest first.
pub(crate) fn answer(maps: &Maps) -> Result<Audit, MapsError> {
    let records = drops::rows(maps, &maps.audit_records)?.into_iter();
    let would_drop = records.map(|record| Row { policies: record.blamed(), record }).collect();
    Ok(Audit { would_drop_total: maps.counters.would_drop()?, would_drop })
}

impl Answer for Audit {
    fn text(&self) -> String {
        let rows = self.would_drop.iter().map(|Row { policies, record }| {
            let [last_seen, count, pod] = record.seen();
            let because = if policies.is_empty() {
                "policies that have changed since".to_owned()
            } else {
                record.because()
            };
            [last_seen, count, output::list(policies), pod, record.packet(), because]
        });
        output::table(["LAST SEEN", "COUNT", "POLICY", "POD", "WOULD DROP", "BECAUSE"], rows)
    }
}
