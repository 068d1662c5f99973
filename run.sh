#!/usr/bin/env bash
# Installs what is needed into .venv, once, and runs a task from random play to a scored agent.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv"

usage() {
    cat <<EOF
usage: bash run.sh carracing|doom|GAME.py [--scale smoke|day|paper] [--run DIR] [flags]   train and score an agent, or go on with it
                                                                                   (GAME.py: a game of your own, see README.md)
       bash run.sh carracing|doom --table [--es-seeds 1,2,3]                       a C for each row of the paper's table
       bash run.sh carracing|doom --rounds 4                                       rounds: C plays, V, M and C learn from it, and again
       bash run.sh carracing|doom [--memory mdnrnn|rssm] [--trainer cmaes|actor_critic]   another memory, another trainer
       bash run.sh carracing|doom --help                                           every flag
       bash run.sh web carracing|doom [--run DIR]                                  a page on which to watch and play its dream
       bash run.sh play carracing|doom [--dream]                                   the same in a window, or the real game
       bash run.sh score carracing|doom [--shipped] [--run DIR]                    score the agent
       bash run.sh verify carracing|doom|all [--run DIR]                           ours beside the paper's tables
       bash run.sh setup                                                           install only
       bash run.sh test [pytest's flags]                                           run the tests
EOF
}

fail() {
    echo "error: $*" >&2
    exit 2
}

# The Python that .venv is made with: $PYTHON, or the newest of 3.11..3.13 that is there.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found: install one, or name it, as in PYTHON=/path/to/python3.12 bash run.sh ..."
}

# The lines of requirement files, without the CUDA libraries where no NVIDIA driver is.
wanted_requirements() {
    if [ -e /proc/driver/nvidia/version ] || nvidia-smi >/dev/null 2>&1; then
        cat "$@"
    else
        cat "$@" | sed 's/\[and-cuda\]//'
    fi
}

# Install what requirements.txt says, and further files of requirements.
setup() {
    local wanted have="" stamp="$venv/requirements.installed"
    wanted="$(wanted_requirements "$root/requirements.txt" "$@")"
    [ ! -f "$stamp" ] || have="$(cat "$stamp")"
    # More than is wanted may be installed, such as what the tests need, or what another node's GPU needs.
    if [ -n "$have" ] && [[ "$have" == "$wanted"* || "${have//\[and-cuda\]/}" == "$wanted"* ]]; then
        return
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        local python
        python="$(find_python)"
        echo "making .venv with $("$python" --version)"
        rm -rf "$venv"
        "$python" -m venv "$venv" || fail "could not make .venv (on Debian and Ubuntu: apt-get install python3-venv)"
    fi
    [[ "$wanted" == *and-cuda* ]] || echo "no NVIDIA driver found: installing TensorFlow without its CUDA libraries"
    echo "installing the packages of requirements.txt (about a minute, 2 GB)"
    rm -f "$stamp"
    if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement <(echo "$wanted"); then
        echo "$wanted" >"$stamp"
    elif [ -n "$have" ] && [[ "$have" == "${wanted//\[and-cuda\]/}"* ]]; then
        # Installed where no GPU was, such as a login node; this one may not reach the internet.
        echo "$have" >"$stamp"
        echo "warning: CUDA's libraries could not be installed, the lines above say why: going on without a GPU" >&2
    else
        fail "installing failed; the lines above say why. The same command tries again"
    fi
}

case "${1:-}" in
setup)
    [ $# -eq 1 ] || { usage >&2; exit 2; }
    setup
    echo "installed in $venv"
    ;;
test)
    shift
    setup "$root/tests/requirements.txt"
    cd "$root"
    exec "$venv/bin/python" -m pytest "$@"
    ;;
web | play | score | verify)
    command="$1"
    shift
    setup
    [ "$command" != score ] || command=evaluate
    exec "$venv/bin/python" "$root/controller/$command.py" "$@"
    ;;
carracing | doom | *.py)
    setup
    exec "$venv/bin/python" "$root/controller/pipeline.py" "$@"
    ;;
"")
    usage >&2
    exit 2
    ;;
*)
    echo "error: unknown command '$1'" >&2
    usage >&2
    exit 2
    ;;
esac
