use super::*;

struct Sim {
    health: Health,
    rng: fastrand::Rng,
    mono: Duration,
}

const MINUTE: Duration = Duration::from_secs(60);

fn config() -> DeliveryConfig {
    DeliveryConfig {
        retry_base: Duration::from_secs(1),
        retry_cap: Duration::from_secs(600),
        retry_max_age: Duration::from_secs(48 * 3_600),
        outage_max_age: Duration::from_secs(14 * 86_400),
    }
}

fn member(call: i64) -> Member {
    Member {
        delivery: call * 10,
        call,
        key: format!("pbx:{call}.1/1"),
        attempts: 0,
        refused: 0,
        age: 0,
        tried_up: None,
        queued_at: Timestamp::from_secs(1_000),
    }
}

fn http(status: u16) -> Answer {
    Answer::Http { status, retry_after: None, excerpt: "text".to_owned() }
}

fn refused() -> Answer {
    Answer::Unreachable("connection refused".to_owned())
}

impl Sim {
    fn new() -> Self {
        Self {
            health: Health::new(config(), None, Duration::ZERO),
            rng: fastrand::Rng::with_seed(7),
            mono: Duration::ZERO,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_000).plus_micros(micros(self.mono))
    }

    fn answer_all(&mut self, members: Vec<Member>, answer: &Answer) -> Judged {
        let probe = match self.health.permit(self.mono) {
            Permit::Probe => {
                self.health.probe_sent();
                true
            }
            _ => false,
        };
        let now = self.now();
        self.health.judge(&Sent { members, probe }, answer, Moment { now, mono: self.mono }, &mut self.rng)
    }

    fn answer(&mut self, call: i64, answer: &Answer) -> Judged {
        self.answer_all(vec![member(call)], answer)
    }

    fn pass(&mut self, time: Duration) {
        self.mono += time;
    }
}

#[test]
fn the_sinks_fault_pauses_at_once_burns_nothing_and_is_probed_each_minute() {
    for status in [301, 302, 307, 401, 404, 405, 407, 421] {
        let mut sim = Sim::new();
        let judged = sim.answer(1, &http(status));
        assert_eq!(judged.change, Some(Change::Paused), "{status}");
        assert!(matches!(judged.outcomes[..], [(10, Outcome::Release { refused: false, .. })]));
        assert_eq!(sim.health.permit(sim.mono), Permit::Wait(Some(MINUTE)));
        sim.pass(MINUTE);
        assert_eq!(sim.health.permit(sim.mono), Permit::Probe);
        sim.health.probe_sent();
        assert_eq!(sim.health.permit(sim.mono), Permit::Wait(None), "one at a time");
        let now = sim.now();
        let probe = Sent { members: vec![member(2)], probe: true };
        let at = Moment { now, mono: sim.mono };
        assert_eq!(sim.health.judge(&probe, &http(500), at, &mut sim.rng).change, None);
        sim.pass(MINUTE);
        let judged = sim.answer(3, &Answer::Accepted);
        assert_eq!((judged.change, sim.health.permit(sim.mono)), (Some(Change::Resumed), Permit::Go));
    }
}

#[test]
fn one_refused_document_is_dead_and_the_sink_goes_on() {
    let mut sim = Sim::new();
    for status in [400, 410, 413, 415, 422] {
        let judged = sim.answer(1, &http(status));
        assert!(matches!(&judged.outcomes[..], [(10, Outcome::Dead { refused: true, .. })]), "{status}");
        assert_eq!(judged.change, None);
        sim.answer(2, &Answer::Accepted);
    }
}

#[test]
fn five_refused_calls_in_a_row_are_the_sinks_fault_after_all() {
    let mut sim = Sim::new();
    for call in 1..=4 {
        assert_eq!(sim.answer(call, &http(400)).change, None);
        assert_eq!(sim.answer(call, &http(400)).change, None, "the same call again says nothing new");
    }
    let judged = sim.answer(5, &http(422));
    assert_eq!(judged.change, Some(Change::Paused));
    assert!(matches!(judged.outcomes[0], (50, Outcome::Release { refused: true, .. })));
    let revived: HashSet<i64> =
        judged.outcomes.iter().filter(|(_, o)| *o == Outcome::Revive).map(|(d, _)| *d).collect();
    assert_eq!(revived, HashSet::from([10, 20, 30, 40]), "nothing is lost by it");
    // refused again as a probe: still the sink
    sim.pass(MINUTE);
    assert!(matches!(sim.answer(6, &http(400)).outcomes[..], [(60, Outcome::Release { .. })]));
    // mended; those that are refused even now were at fault themselves, however many
    sim.pass(MINUTE);
    assert_eq!(sim.answer(7, &Answer::Accepted).change, Some(Change::Resumed));
    for call in 1..=6 {
        let judged = sim.answer_all(vec![Member { refused: 1, ..member(call) }], &http(400));
        assert!(matches!(judged.outcomes[..], [(_, Outcome::Dead { .. })]) && judged.change.is_none());
    }
}

#[test]
fn a_success_between_refusals_clears_the_sink() {
    let mut sim = Sim::new();
    for call in 1..=20 {
        assert_eq!(sim.answer(call, &http(400)).change, None);
        if call % 4 == 0 {
            sim.answer(100, &Answer::Accepted);
        }
    }
}

#[test]
fn one_403_is_the_calls_and_a_second_calls_is_the_sinks() {
    let mut sim = Sim::new();
    assert!(matches!(sim.answer(1, &http(403)).outcomes[..], [(10, Outcome::Dead { .. })]));
    assert_eq!(sim.answer(1, &http(403)).change, None, "the same call");
    let judged = sim.answer(2, &http(403));
    assert_eq!(judged.change, Some(Change::Paused));
    assert!(judged.outcomes.contains(&(10, Outcome::Revive)));

    let mut sim = Sim::new();
    sim.answer(1, &http(403));
    sim.answer(2, &Answer::Accepted);
    assert_eq!(sim.answer(3, &http(403)).change, None, "others were let in between");
}

#[test]
fn a_dead_endpoint_costs_one_request_a_probe() {
    let mut sim = Sim::new();
    let opened: Vec<bool> = (1..=5).map(|call| sim.answer(call, &http(503)).change.is_some()).collect();
    assert_eq!(opened, [false, false, false, false, true]);
    let mut requests = 0;
    for _ in 0..3_600 {
        sim.pass(Duration::from_secs(1));
        if sim.health.permit(sim.mono) == Permit::Probe {
            sim.answer(9, &refused());
            requests += 1;
        }
    }
    assert!((60..140).contains(&requests), "{requests} probes in an hour");
    sim.pass(MINUTE);
    assert_eq!(sim.answer(9, &Answer::Accepted).change, Some(Change::Resumed));
}

#[test]
fn one_call_that_fails_does_not_open_the_breaker_and_expires_by_its_age() {
    let mut sim = Sim::new();
    let mut one = member(1);
    let mut dead = None;
    for hour in 0..60 {
        let judged = sim.answer_all(vec![one.clone()], &http(500));
        assert_eq!(judged.change, None);
        match &judged.outcomes[0].1 {
            Outcome::Retry { age, tried_up, .. } => (one.age, one.tried_up) = (*age, Some(*tried_up)),
            Outcome::Dead { error, .. } => {
                dead = Some((hour, error.clone()));
                break;
            }
            other => panic!("{other:?}"),
        }
        one.attempts += 1;
        sim.pass(Duration::from_secs(3_600));
    }
    let (hour, error) = dead.expect("given up");
    assert_eq!(hour, 49);
    assert!(error.contains("RETRY_MAX_AGE") && error.contains("HTTP 500"), "{error}");
}

#[test]
fn an_outage_ages_nothing_before_its_own_limit() {
    let mut sim = Sim::new();
    for call in 1..=5 {
        sim.answer(call, &refused());
    }
    let mut one = Member { tried_up: Some(0), ..member(1) };
    let mut days = 0;
    loop {
        sim.pass(Duration::from_secs(86_400));
        days += 1;
        let judged = sim.answer_all(vec![one.clone()], &refused());
        match &judged.outcomes[0].1 {
            Outcome::Retry { age, tried_up, .. } => (one.age, one.tried_up) = (*age, Some(*tried_up)),
            Outcome::Dead { error, .. } => {
                assert!(error.contains("OUTAGE_MAX_AGE"), "{error}");
                break;
            }
            other => panic!("{other:?}"),
        }
        assert!(one.age < 1_000_000 && days <= 15, "age {} after {days} days", one.age);
    }
    assert_eq!(days, 15);
    assert_eq!(sim.health.outage_limit(sim.now()), Some(sim.now().plus_micros(-14 * 86_400 * 1_000_000)));
}

#[test]
fn retry_after_holds_the_whole_sink_up_to_an_hour() {
    let mut sim = Sim::new();
    let answer = Answer::Http { status: 429, retry_after: Some(Duration::from_secs(90)), excerpt: String::new() };
    let judged = sim.answer(1, &answer);
    let Outcome::Retry { due_at, .. } = &judged.outcomes[0].1 else { panic!("{judged:?}") };
    assert_eq!(*due_at, sim.now().plus_micros(90_000_000));
    assert_eq!(sim.health.permit(sim.mono), Permit::Wait(Some(Duration::from_secs(90))));
    sim.pass(Duration::from_secs(90));
    assert_eq!(sim.health.permit(sim.mono), Permit::Go);
}

#[test]
fn a_refused_batch_is_cut_in_halves_down_to_one() {
    let mut sim = Sim::new();
    let judged = sim.answer_all((1..=5).map(member).collect(), &http(400));
    let batches: Vec<&String> = judged
        .outcomes
        .iter()
        .map(|(_, o)| match o {
            Outcome::Split { batch, .. } => batch,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(judged.outcomes.iter().map(|(d, _)| *d).collect::<Vec<_>>(), [10, 20, 30, 40, 50]);
    assert!(batches[0] == batches[2] && batches[3] == batches[4] && batches[0] != batches[3]);
    assert_eq!(judged.change, None, "a batch is no call: it says nothing about the sink");
}

#[test]
fn a_batch_that_keeps_failing_while_others_arrive_is_cut_too() {
    let mut sim = Sim::new();
    let batch = |attempts| (1..=4).map(|c| Member { attempts, tried_up: Some(0), ..member(c) }).collect::<Vec<_>>();
    let is_split = |j: &Judged| matches!(j.outcomes[0].1, Outcome::Split { .. });
    assert!(!is_split(&sim.answer_all(batch(7), &http(500))), "nothing arrived: the sink is down");
    sim.pass(MINUTE);
    sim.answer(9, &Answer::Accepted);
    assert!(!is_split(&sim.answer_all(batch(1), &http(500))), "not yet");
    assert!(is_split(&sim.answer_all(batch(4), &http(500))));
}

#[test]
fn a_restart_keeps_the_pause_and_probes_at_once() {
    let mut sim = Sim::new();
    sim.pass(MINUTE);
    sim.answer(1, &http(401));
    let text = serde_json::to_string(&sim.health.snapshot()).expect("snapshot");
    let kept: Snapshot = serde_json::from_str(&text).expect("snapshot");
    let health = Health::new(config(), Some(kept), Duration::from_secs(5));
    assert_eq!(health.mode(), sim.health.mode());
    assert_eq!(health.permit(Duration::from_secs(5)), Permit::Probe);
    assert_eq!(health.up, MINUTE);
}
