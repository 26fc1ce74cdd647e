//! Provisioning of Asterisk Realtime: what a file or a flag asks for becomes rows, the rows a plan, the plan one
//! transaction, and the transaction something Asterisk has loaded.
//!
//! `manifest → build → (schema) resolve → plan → apply → activate → verify`. The database is introspected, never assumed
//! from a version; only columns we manage and rows we own are touched.

pub mod activate; // registrations made live through AMI
pub mod apply; // one transaction, all or nothing
pub mod build; // rows of trunks, phones, queues, dialplan
pub mod cache; // what Asterisk holds back of changed rows
pub mod current; // the rows that stand, and whose they are
pub mod db; // one connection, either engine, everything as text
pub mod define; // one definition to one thing
pub mod dialplan; // regular expressions as dialplan patterns
pub mod error; // kind of trouble, place, message
pub mod ident; // ids of rows
pub mod import; // a manifest of what stands
pub mod intent; // what a manifest means
pub mod manifest; // pbx.toml as it is written
pub mod model; // what can be provisioned, checked
pub mod plan; // the difference, printed as terraform does
pub mod render; // the static files Asterisk needs
pub mod schema; // tables and columns as they are found
pub mod stubs; // contexts with their switch, for extensions.conf to include
pub mod table; // tables, keys, rows as they are asked for
pub mod value; // `;` and `^` as Realtime reads them
pub mod verify;
pub mod version; // releases of Asterisk // what Asterisk has made of the rows
