//! `.env.example`: every setting with its help and default, made from the settings themselves.

use super::env::settings_command;
use super::settings::{COMMAND_SETTINGS, SECRET_NAMES};

const HEAD: &str = "\
# Settings of callferry. Copy to .env and set what you need: every line below shows a default and may stay as it is.
# What most installations set:
#   DB_TYPE DB_HOST DB_NAME DB_USER DB_PASSWORD   the database Asterisk writes CDR and CEL to
#   KNOWN_TRUNKS                                  your trunks, so that inbound and outbound are told apart
#   SINKS, and WEBHOOK_URL or API_KEY             where finished calls go
# Put values with blanks, # or quotation marks between single quotes. Nothing in a value is replaced.
# Secrets can also be read from a file: DB_PASSWORD_FILE in place of DB_PASSWORD, and so on.
";

/// The whole file.
pub fn env_example() -> String {
    let mut text = HEAD.to_owned();
    let mut heading = String::new();
    for argument in settings_command().get_arguments() {
        let Some(name) = argument.get_env().map(|e| e.to_string_lossy().into_owned()) else { continue };
        let group = argument.get_help_heading().unwrap_or_default();
        if group != heading {
            heading = group.to_owned();
            text.push_str(&format!("\n\n# ---- {heading} ----\n"));
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let default = argument.get_default_values().iter().map(|v| v.to_string_lossy()).collect::<Vec<_>>().join(",");
        write(&mut text, &name, &help, &default);
    }
    for setting in COMMAND_SETTINGS {
        write(&mut text, setting.name, setting.help, setting.default);
    }
    text
}

fn write(text: &mut String, name: &str, help: &str, default: &str) {
    text.push('\n');
    for line in wrap(help, 116) {
        text.push_str(&format!("# {line}\n"));
    }
    if let Some(secret) = name.strip_suffix("_FILE").filter(|s| SECRET_NAMES.contains(s)) {
        text.push_str(&format!("#{secret}=\n"));
    }
    text.push_str(&format!("#{name}={default}\n"));
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
