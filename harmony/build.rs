//! A new migration file must rebuild the crate: the macro that embeds the folder cannot see files that
//! did not exist when it ran.
fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
