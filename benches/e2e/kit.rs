//! A check of the generator: the same measurement with rows that another program writes. `BENCH_KIT` names a Python program
//! that knows `schema --dsn URL` and `history --dsn URL -n CALLS --expect FILE` (it needs a MySQL driver for Python).

use std::path::Path;
use std::process::{Command, Stdio};

use crate::agent::SinkKind;
use crate::database::Database;
use crate::report::Report;
use crate::run::{self, Backlog};

pub async fn run(database: &mut Database, sink: SinkKind, calls: usize, report: &mut Report) {
    let Ok(program) = std::env::var("BENCH_KIT") else {
        eprintln!("!!! skipped: the check with another generator's rows (BENCH_KIT names none)");
        return;
    };
    database.begin("kit").await;
    database.run("CREATE USER IF NOT EXISTS kit@'%' IDENTIFIED BY 'kit'; GRANT ALL ON kit.* TO kit@'%'").await;
    let dsn = format!("mysql://kit:kit@127.0.0.1:{}/kit", database.port);
    let count = calls.to_string();
    for arguments in [vec!["schema"], vec!["history", "-n", &count, "--expect", "/dev/null"]] {
        let mut command = Command::new("python3");
        command.arg(Path::new(&program)).args(&arguments).args(["--dsn", &dsn]);
        if !command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
            eprintln!("!!! skipped: {program} {} fails", arguments.join(" "));
            return;
        }
    }
    let backlog = Backlog { name: "webhook, kit's rows", calls, sink, preload: None };
    report.backlog(run::backlog(database, &backlog).await);
}
