#!/bin/bash
# A run on SLURM, one task per GPU. With the program's environment active, in any folder:
#
#   clipsift configs trainer/slurm.sh > slurm.sh
#   sbatch --nodes 8 slurm.sh reproduce --config reproduce/medium_s_cliploss --pool POOL --eval EVAL --out runs/medium
#
# What follows the script are the program's own arguments. Two minutes before the time is up SLURM sends SIGUSR1; the run
# saves and ends with status 75, and this script puts it back into the queue, to go on with the very next batch.
#SBATCH --job-name clipsift
#SBATCH --ntasks-per-node 8
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 12
#SBATCH --time 24:00:00
#SBATCH --signal USR1@120
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --output %x-%j.log

set -u
export OMP_NUM_THREADS=1

verb=$1
shift
# A task that is killed ends the others within a minute; those that save are not cut short by the first to end.
srun --kill-on-bad-exit=0 --wait=60 clipsift "$verb" --config configs/trainer/slurm.yaml "$@" &
step=$!
cancelled=0
trap 'cancelled=1; kill -TERM "$step"' TERM  # srun hands it to the tasks, which save
wait "$step"
status=$?
if [ "$cancelled" -eq 1 ]; then  # the signal ended the wait, not the step
    wait "$step"
    status=$?
elif [ "$status" -eq 75 ] || [ "$status" -eq 138 ]; then  # training has saved; another stage was ended by the signal
    echo "the time is up; back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
