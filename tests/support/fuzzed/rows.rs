//! Bytes as rows: sixteen a row, each byte a choice from a few channels, bridges, events and texts, so that most of what
//! a fuzzer makes up is a plausible piece of a call. [`encode`] turns captured rows into such bytes, roughly.

use std::sync::Arc;

use callferry::call::{CdrRow, CelEvent, CelRow, Disposition, Row, RowTime, WallTime};

pub struct Input {
    pub rows: Vec<Row>,
    pub has_cel: bool,
}

/// Bytes of one row.
const ROW: usize = 16;
/// More rows say nothing new.
const ROWS_MAX: usize = 120;
/// 2026-11-20 22:28:10 UTC, and the hour of Prague that comes twice.
const EPOCHS: [i64; 2] = [1_795_213_690, 1_792_890_000];

const CHANNELS: [&str; 8] = [
    "PJSIP/1001-00000001",
    "PJSIP/1002-00000002",
    "PJSIP/trunk-acme-00000003",
    "Local/1002@from-queue-00000001;1",
    "Local/1002@from-queue-00000001;2",
    "PJSIP/1003-00000004",
    "Local/1003@x-00000002;1",
    "Local/1003@x-00000002;2",
];
const EVENTS: [&str; 26] = [
    "CHAN_START",
    "CHAN_END",
    "HANGUP",
    "ANSWER",
    "APP_START",
    "APP_END",
    "BRIDGE_ENTER",
    "BRIDGE_EXIT",
    "BLINDTRANSFER",
    "ATTENDEDTRANSFER",
    "PICKUP",
    "PARK_START",
    "PARK_END",
    "FORWARD",
    "LOCAL_OPTIMIZE",
    "LINKEDID_END",
    "STREAM_BEGIN",
    "STREAM_END",
    "DTMF",
    "USER_DEFINED",
    "BRIDGE_START",
    "BRIDGE_END",
    "CONF_START",
    "LOCAL_OPTIMIZE_BEGIN",
    "TRANSFER",
    "VENDOR",
];
const APPS: [&str; 20] = [
    "",
    "Dial",
    "AppDial",
    "AppDial2",
    "Queue",
    "AppQueue",
    "BackGround",
    "VoiceMail",
    "VoiceMailMain",
    "ConfBridge",
    "Park",
    "MixMonitor",
    "Playback",
    "Busy",
    "Congestion",
    "Hangup",
    "AgentLogin",
    "Stasis",
    "Answer",
    "FollowMe",
];
const DATA: [&str; 10] = [
    "",
    "PJSIP/1002,20,tT",
    "PJSIP/777123456@trunk-acme",
    "PJSIP/1002&PJSIP/1003&Local/1002@from-queue/n,30",
    "support,,,,5",
    "1002@default,u",
    "/var/spool/asterisk/monitor/out-777-1001-1795213690.1.wav,b",
    "default:701",
    "5000",
    "(Outgoing Line)",
];
const EXTENS: [&str; 10] = ["", "s", "1002", "1003", "9777123456", "420224000101", "h", "*8", "701", "5000"];
const NUMBERS: [&str; 6] = ["", "1001", "1002", "777123456", "+420777123456", "1003"];
const CONTEXTS: [&str; 6] = ["", "from-internal", "from-trunk", "ivr-1", "parkedcalls", "from-queue"];
const CAUSES: [i64; 8] = [16, 17, 19, 21, 26, 0, 34, 127];

fn pick<T: Copy>(from: &[T], byte: u8) -> T {
    from[usize::from(byte) % from.len()]
}

/// The first byte: bit 0 no CEL is read, bit 1 the hour that comes twice, bit 2 whole seconds.
pub fn decode(data: &[u8]) -> Input {
    let Some((&head, body)) = data.split_first() else { return Input { rows: Vec::new(), has_cel: true } };
    let has_cel = head & 1 == 0;
    let epoch = EPOCHS[usize::from(head >> 1 & 1)];
    let mut t = epoch * 1_000_000;
    let mut rows = Vec::new();
    for (i, b) in body.chunks_exact(ROW).take(ROWS_MAX).enumerate() {
        t += gap(b[2]);
        let shown = if head & 4 == 0 { t } else { t.div_euclid(1_000_000) * 1_000_000 };
        let time = if b[11] & 8 == 0 { Some(clock(shown, b[11])) } else { None };
        let id = (b[11] & 1 == 0).then_some(i as i64);
        if b[0] >= 224 { rows.push(record(b, epoch, shown)) } else { rows.push(event(b, epoch, time, id)) }
    }
    if !has_cel {
        rows.retain(|r| matches!(r, Row::Cdr(_)));
    }
    Input { rows, has_cel }
}

fn gap(byte: u8) -> i64 {
    let unit = [0, 1, 700, 40_000, 600_000, 1_000_000, 7_000_000, 1_200_000_000][usize::from(byte & 7)];
    unit * i64::from(byte >> 3)
}

fn clock(t: i64, flags: u8) -> RowTime {
    if flags & 2 == 0 { RowTime::Wall(WallTime(t + 3_600_000_000)) } else { RowTime::Utc(t) }
}

fn id(epoch: i64, channel: u8) -> String {
    format!("{}.{}", epoch + i64::from(channel % 8) / 2, channel % 8)
}

fn event(b: &[u8], epoch: i64, time: Option<RowTime>, row: Option<i64>) -> Row {
    let event = CelEvent::parse(pick(&EVENTS, b[0]));
    let extra = extra(&event, b, epoch);
    // a masquerade gives a channel another one's name
    let channel = if b[11] & 4 == 0 { pick(&CHANNELS, b[1]) } else { pick(&CHANNELS, b[9]) };
    Row::Cel(Arc::new(CelRow {
        id: row,
        event,
        time,
        uniqueid: id(epoch, b[1]).into(),
        linkedid: if b[11] & 64 == 0 { id(epoch, b[1] >> 4).into() } else { "".into() },
        channel: channel.into(),
        cid_num: pick(&NUMBERS, b[7]).into(),
        cid_name: if b[13] & 1 == 0 { "" } else { "Zoë" }.into(),
        cid_dnid: if b[13] & 2 == 0 { "" } else { pick(&EXTENS, b[14]) }.into(),
        exten: pick(&EXTENS, b[6]).into(),
        context: pick(&CONTEXTS, b[11] >> 4 & 3 | b[13] >> 4 & 4).into(),
        appname: pick(&APPS, b[4]).into(),
        appdata: pick(&DATA, b[5]).into(),
        extra: extra.into(),
        ..CelRow::default()
    }))
}

fn extra(event: &CelEvent, b: &[u8], epoch: i64) -> String {
    let (other, third) = (id(epoch, b[9]), id(epoch, b[9] >> 4));
    let (name, cause) = (pick(&CHANNELS, b[9]), pick(&CAUSES, b[12]));
    let technology = pick(&["simple_bridge", "simple_bridge", "softmix", "holding_bridge", "native_rtp"], b[8]);
    let status = pick(&["", "ANSWER", "BUSY", "CHANUNAVAIL", "NOANSWER"], b[8]);
    let source = pick(&["", name, "dialplan/builtin"], b[14]);
    let exten = pick(&EXTENS, b[14]);
    let mut text = match event {
        CelEvent::BridgeEnter | CelEvent::BridgeExit if b[8] < 250 => {
            format!(r#"{{"bridge_id":"b{}","bridge_technology":"{technology}"}}"#, b[10] % 4)
        }
        CelEvent::Hangup => format!(r#"{{"hangupcause":{cause},"hangupsource":"{source}","dialstatus":"{status}"}}"#),
        CelEvent::BlindTransfer => format!(
            r#"{{"extension":"{exten}","context":"x","bridge_id":"b1","transferee_channel_name":"{name}","transferee_channel_uniqueid":"{other}"}}"#
        ),
        CelEvent::AttendedTransfer => format!(
            r#"{{"bridge1_id":"b1","channel2_name":"{name}","channel2_uniqueid":"{other}","{}":"{}","transferee_channel_uniqueid":"{third}","transfer_target_channel_uniqueid":"N/A"}}"#,
            if b[8] & 1 == 0 { "bridge2_id" } else { "app" },
            if b[8] & 1 == 0 { "b2" } else { pick(&APPS, b[14]) },
        ),
        CelEvent::Pickup => format!(r#"{{"pickup_channel":"{name}","pickup_channel_uniqueid":"{other}"}}"#),
        CelEvent::ParkStart => r#"{"parker_dial_string":"PJSIP/1002","parking_lot":"default"}"#.to_owned(),
        CelEvent::ParkEnd => format!(
            r#"{{"reason":"{}","retriever":"{name}"}}"#,
            pick(&["ParkedCallTimeOut", "ParkedCallUnparked", "ParkedCallGiveUp"], b[8])
        ),
        CelEvent::Forward => format!(r#"{{"forward":"Local/{exten}@from-internal"}}"#),
        CelEvent::LocalOptimize | CelEvent::LocalOptimizeBegin => {
            format!(r#"{{"local_two":"{name}","local_two_uniqueid":"{other}"}}"#)
        }
        CelEvent::StreamBegin | CelEvent::StreamEnd => {
            pick(&[r#"{"class":"default"}"#, r#"{"sound":"beep"}"#], b[8]).to_owned()
        }
        CelEvent::Dtmf => format!(r#"{{"digit":"{}","duration_ms":100}}"#, b[8] % 10),
        _ => String::new(),
    };
    if b[15] > 128 {
        text.truncate(usize::from(b[15] - 128));
    }
    text
}

fn record(b: &[u8], epoch: i64, end: i64) -> Row {
    let start = end - gap(b[3]);
    let answered = b[12] & 1 == 0;
    Row::Cdr(Arc::new(CdrRow {
        start: Some(clock(start, b[11])),
        answer: (b[11] & 8 == 0 && answered).then(|| clock(end - gap(b[3]) / 2, b[11])),
        end: (b[11] & 16 == 0).then(|| clock(end, b[11])),
        duration_ms: Some((end - start) / 1_000),
        billsec_ms: answered.then_some((end - start) / 2_000),
        uniqueid: id(epoch, b[1]).into(),
        linkedid: if b[11] & 64 == 0 { id(epoch, b[1] >> 4).into() } else { "".into() },
        sequence: (b[11] & 1 == 0).then_some(i64::from(b[15])),
        channel: pick(&CHANNELS, b[1]).into(),
        dstchannel: if b[11] & 4 == 0 { pick(&CHANNELS, b[9]) } else { "" }.into(),
        src: pick(&NUMBERS, b[7]).into(),
        clid: format!("\"Zoë\" <{}>", pick(&NUMBERS, b[7])).into(),
        dst: pick(&EXTENS, b[6]).into(),
        dcontext: pick(&CONTEXTS, b[13]).into(),
        lastapp: pick(&APPS, b[4]).into(),
        lastdata: pick(&DATA, b[5]).into(),
        disposition: Disposition::parse(pick(&["ANSWERED", "NO ANSWER", "BUSY", "FAILED", "CANCEL"], b[12] >> 1)),
        recordingfile: if b[14] & 1 == 0 { "" } else { "out-777-1001.wav" }.into(),
        ..CdrRow::default()
    }))
}

/// Captured rows as bytes that decode to something like them.
pub fn encode(rows: &[Row]) -> Vec<u8> {
    let mut out = vec![0];
    let mut known: Vec<String> = Vec::new();
    let mut last = None;
    let place = |list: &[&str], text: &str| list.iter().position(|x| x.eq_ignore_ascii_case(text)).unwrap_or(0) as u8;
    for row in rows {
        let mut channel = |id: &str| {
            let at = known.iter().position(|k| k == id).unwrap_or_else(|| {
                known.push(id.to_owned());
                known.len() - 1
            });
            (at % 8) as u8
        };
        let us = match row.time() {
            Some(RowTime::Utc(us) | RowTime::Wall(WallTime(us))) => us,
            None => 0,
        };
        let passed = us - last.unwrap_or(us);
        last = Some(us);
        let unit = [0, 1, 700, 40_000, 600_000, 1_000_000, 7_000_000_i64];
        let scale = unit.iter().rposition(|u| *u > 0 && *u <= passed).unwrap_or(0);
        let steps = if scale == 0 { 0 } else { (passed / unit[scale]).clamp(0, 31) };
        let mut b = [0_u8; ROW];
        b[1] = channel(row.uniqueid()) | channel(row.linkedid()) << 4;
        b[2] = scale as u8 | (steps as u8) << 3;
        match row {
            Row::Cel(r) => {
                b[0] = place(&EVENTS, r.event.name());
                (b[4], b[5]) = (place(&APPS, &r.appname), place(&DATA, &r.appdata));
                (b[6], b[7]) = (place(&EXTENS, &r.exten), place(&NUMBERS, &r.cid_num));
                b[12] = if r.extra.contains("\"hangupcause\":17") { 1 } else { 0 };
            }
            Row::Cdr(r) => {
                b[0] = 224;
                b[3] = 5 | 10 << 3;
                (b[4], b[6]) = (place(&APPS, &r.lastapp), place(&EXTENS, &r.dst));
                b[12] = u8::from(r.disposition != Disposition::Answered);
            }
        }
        out.extend(b);
    }
    out
}
