"""A script as a user of the docker package would write it: the life of one container by the low-level and the high-level API."""
import docker

client = docker.from_env()
api = client.api
made = api.create_container("bb", ["sh", "-c", "echo started; sleep 1000"], name="py", network_disabled=True,
                            host_config=api.create_host_config(mem_limit="64m", network_mode="none"))
api.start(made["Id"])
call = api.exec_create("py", ["sh", "-c", "echo from exec; exit 9"])
assert api.exec_start(call["Id"]) == b"from exec\n"
assert api.exec_inspect(call["Id"])["ExitCode"] == 9
assert api.logs("py") == b"started\n"
stats = api.stats("py", stream=False)
assert stats["memory_stats"]["limit"] == 64 << 20, stats["memory_stats"]
assert stats["pids_stats"]["current"] >= 1
assert [p for p in api.top("py")["Processes"] if "sleep 1000" in p[-1]]
api.pause("py")
assert api.inspect_container("py")["State"]["Status"] == "paused"
api.unpause("py")
api.update_container("py", mem_limit="80m", memswap_limit="80m")
api.kill("py", "KILL")
assert api.wait("py")["StatusCode"] == 137
api.remove_container("py")

assert client.containers.run("bb", "echo hello", remove=True, network_mode="none") == b"hello\n"
try:
    client.containers.run("bb", "/nope", remove=True, network_mode="none")
    raise SystemExit("a missing command was run")
except docker.errors.APIError as e:
    assert "no such file" in str(e) or "not found" in str(e), e
try:
    client.containers.run("bb", "sh -c 'exit 5'", remove=True, network_mode="none")
    raise SystemExit("a failure was not told")
except docker.errors.ContainerError as e:
    assert e.exit_status == 5
print("all well")
