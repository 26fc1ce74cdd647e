//! A queue and its members.

use crate::provision::error::Result;
use crate::provision::model::Queue;
use crate::provision::table::{Row, Table};

/// Rows of one queue. Whether a member is paused is the member's business.
pub fn rows(q: &Queue) -> Result<Vec<Row>> {
    let queue = Row::new(Table::Queues, [&q.id])
        .set("strategy", q.strategy.as_str())
        .set("timeout", q.timeout.to_string())
        .flag("ringinuse", q.ring_in_use)
        .optional("wrapuptime", q.wrapup.to_string())
        .optional("maxlen", q.max_len.to_string())
        .managed("joinempty", q.join_empty.as_deref())
        .managed("leavewhenempty", q.leave_when_empty.as_deref())
        .managed("musiconhold", q.music.as_deref())
        .managed("announce", q.announce.as_deref());
    let members = q.members.iter().map(|m| {
        // adopted: a member's row carries no mark, and it stands in a queue of ours
        let row = Row::new(Table::QueueMembers, [&q.id, &m.interface])
            .set("membername", m.name.as_str())
            .optional("state_interface", m.interface.as_str())
            .set("penalty", m.penalty.to_string())
            .initial("paused", "0");
        Row { adopt: true, ..row }
    });
    // a queue named exactly has been named on purpose
    Ok(std::iter::once(Row { adopt: true, ..queue }).chain(members).collect())
}
