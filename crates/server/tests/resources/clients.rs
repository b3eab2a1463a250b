//! The official Python client against a server on a port of this machine, over the tiny model.

use super::Fixture;
use alti_server::{AppState, Server, ServerSettings, Services};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Names a Python interpreter that has the package `openai`.
const PYTHON: &str = "ALTI_TEST_PYTHON";

const SCRIPTS: [&str; 6] = ["files", "conversations", "responses", "batches", "vector_stores", "moderations"];

#[test]
#[ignore = "needs ALTI_TEST_PYTHON: a Python with the package `openai`"]
fn the_official_client_is_served() {
    let python = std::env::var_os(PYTHON).expect("ALTI_TEST_PYTHON names a Python with the package `openai`");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (address, stop) = runtime.block_on(async {
        let Fixture { folder, store, state, .. } = Fixture::tiny();
        // One server works at a time.
        state.start_draining();
        let settings = ServerSettings {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            ..ServerSettings::default()
        };
        let loader = Arc::new(super::Loader { model: super::served(super::tiny_engine()) });
        let services = Services { store: Some(store), ..Services::default() };
        let server =
            Server::bind(AppState::with_services(settings, loader, services)).await.expect("it listens");
        let address = server.addresses()[0];
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(stopped).await;
            drop(folder);
        });
        (address, stop)
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for script in SCRIPTS {
        let run = Command::new(&python)
            .arg("-B")
            .arg(folder.join(format!("{script}.py")))
            .arg(format!("http://{address}/v1"))
            .output()
            .expect("Python runs");
        let said = String::from_utf8_lossy(&run.stdout);
        let wrong = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{script}.py\n{said}\n{wrong}");
        println!("{script}.py\n{said}");
    }
    drop(stop);
}
