//! Writes the inputs that each target begins with: `FOLDER/TARGET/seed-N`.
//!
//! Built with `RUSTFLAGS='--cfg fuzzing'`, as `fuzz/run` does.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).expect("a folder for the seeds");
    let mut count = 0;
    for (name, _) in hugeshm::hostile::BODIES {
        let folder = Path::new(&folder).join(name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in hugeshm::hostile::seeds(name).into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
            count += 1;
        }
    }
    println!("{count} seeds");
    Ok(())
}
