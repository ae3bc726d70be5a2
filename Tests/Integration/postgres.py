"""A real PostgreSQL server for one test, on a unix socket in a folder of its own."""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

WHY_NOT = "PostgreSQL is not installed (Debian: apt install postgresql)"


def programs():
    """The folder of the newest server's programs, or None."""
    folders = glob.glob("/usr/lib/postgresql/*/bin")
    folders.sort(key=lambda path: float(path.split("/")[-2]), reverse=True)
    found = shutil.which("initdb")
    for folder in [*folders, *([os.path.dirname(found)] if found else [])]:
        if all(os.access(os.path.join(folder, name), os.X_OK) for name in ("initdb", "postgres")):
            return folder
    return None


class Postgres:
    """Ends with its folder at the end of a `with`."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="millrace-pg-", dir="/tmp")
        self.data = os.path.join(self.folder, "data")
        # It refuses to run as root.
        self.prefix = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.prefix = [
                "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
                "--"]
        self.url = f"postgresql://millrace@/postgres?host={self.folder}"
        self.process = None

    def __enter__(self):
        self.run("initdb", "-D", self.data, "-U", "millrace", "-A", "trust", "-E", "UTF8",
                 "--locale=C", "-N")
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, program, *arguments):
        subprocess.run(
            [*self.prefix, os.path.join(programs(), program), *arguments], check=True,
            cwd=self.folder, stdout=subprocess.DEVNULL)

    def start(self):
        self.process = subprocess.Popen(
            [*self.prefix, os.path.join(programs(), "postgres"), "-D", self.data, "-k", self.folder,
             "-h", ""],
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)

    def children(self):
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat") as file:
                    state, parent = file.read().rsplit(")", 1)[1].split()[:2]
            except OSError:
                continue
            if int(parent) == self.process.pid and state not in "ZX":
                found.append(int(entry))
        return found

    def kill(self):
        """Ends it and all its processes as a crash would, and waits until they are gone."""
        if self.process is None:
            return
        # A stopped one starts no further processes.
        self.process.send_signal(signal.SIGSTOP)
        children = self.children()
        for pid in [*children, self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        while any(self.is_running(pid) for pid in children):
            time.sleep(0.002)
        self.process = None

    @staticmethod
    def is_running(pid):
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False
