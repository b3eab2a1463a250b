//! What an MCP server can do, and what comes of a call: to try one out before it is written into the settings.
//! `cargo run -p alti-server --example mcp_tools -- URL-or-COMMAND [ARGUMENT...] [-- TOOL JSON]`

use alti_server::mcp::{McpServerSettings, McpServers};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let call = words.iter().position(|word| word == "--").map(|at| words.split_off(at)).unwrap_or_default();
    let mut words = words.into_iter();
    let first = words.next().ok_or("an address or a command is missing")?;
    let is_url = first.starts_with("http://") || first.starts_with("https://");
    let (url, command) = if is_url { (Some(first), None) } else { (None, Some(first)) };
    let settings = McpServerSettings {
        name: "server".into(),
        command,
        args: words.collect(),
        url,
        ..Default::default()
    };
    let servers = McpServers::new(vec![settings])?;
    for tool in servers.tools("server").await? {
        println!("{}: {}\n  {}", tool.name, tool.description, tool.parameters);
    }
    if let [_, tool, arguments] = &call[..] {
        let result = servers.call("server", tool, serde_json::from_str(arguments)?).await?;
        println!("{}{}", if result.is_error { "failed: " } else { "" }, result.text);
    }
    Ok(())
}
