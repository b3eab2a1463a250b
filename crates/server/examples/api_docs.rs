//! Prints `docs/api.md`: every route, and every field of what it takes and gives.

fn main() {
    print!("{}", alti_server::operations::documentation());
}
