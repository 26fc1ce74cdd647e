//! What an admin does when something went wrong, through the program: dead letters, history read again, calls compared.

mod forget;
mod history;
mod letters;
mod nailed;
