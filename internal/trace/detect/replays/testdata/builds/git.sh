# what: branches, commits, a merge, a tag, a push to a repository beside it, a clone of it
# needs: git
## step: Work
git checkout -q -b topic && echo more > more.txt && git add more.txt && git commit -qm more
git checkout -q main && echo other > other.txt && git add other.txt && git commit -qm other
git merge -q --no-edit topic && git tag v1 && git push -q origin main v1
git clone -q --depth 1 file:///home/origin.git $RUNNER_TEMP/again && git -C $RUNNER_TEMP/again log --oneline
git stash list && git diff HEAD~1 --stat && git gc -q && git fsck
