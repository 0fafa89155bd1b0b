# what: cargo build and test of a crate with a build script, without a network
# needs: cargo
## step: Build
mkdir -p r/src && cd r
printf '[package]\nname = "r"\nversion = "0.1.0"\nedition = "2021"\nbuild = "build.rs"\n' > Cargo.toml
printf 'fn main() { println!("cargo:rerun-if-changed=build.rs"); }\n' > build.rs
printf 'fn main() { println!("{}", add(1, 2)); }\nfn add(a: i32, b: i32) -> i32 { a + b }\n#[test]\nfn adds() { assert_eq!(add(1, 2), 3); }\n' > src/main.rs
cargo build -q && ./target/debug/r
## step: Test
cd r && cargo test -q
