package main

import (
	"testing"
	"testing/fstest"
)

func TestDefaultConnections(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		memory int64
		files  uint64
		want   int
	}{
		{1<<63 - 1, 1 << 63, 8192},
		{1<<63 - 1, 0, 8192},
		{1 << 30, 1 << 20, 8192},
		{512 << 20, 1 << 20, 4369},
		{128 << 20, 1 << 20, 1092},
		{1 << 30, 1024, 512},
		{1 << 20, 1 << 20, 64},
	} {
		if got := defaultConnections(test.memory, test.files); got != test.want {
			t.Errorf("defaultConnections(%d, %d): got %d, want %d", test.memory, test.files, got, test.want)
		}
	}
}

func TestDefaultWorkers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		memory int64
		want   int
	}{
		{1<<63 - 1, 2000},
		{2 << 30, 2000},
		{512 << 20, 1024},
		{256 << 20, 512},
		{64 << 20, 128},
		{1 << 20, 20},
	} {
		if got := defaultWorkers(test.memory); got != test.want {
			t.Errorf("defaultWorkers(%d): got %d, want %d", test.memory, got, test.want)
		}
	}
}

func TestCgroupMemory(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"None":               {nil, 0},
		"NotLimited":         {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 0},
		"OfAContainer":       {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20},
		"OfAService":         {map[string]string{"proc/self/cgroup": "0::/system.slice/x.service\n", "sys/fs/cgroup/system.slice/x.service/memory.max": "1048576\n"}, 1 << 20},
		"OfAGroupAround":     {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "2097152\n", "sys/fs/cgroup/a/memory.max": "1048576\n"}, 1 << 20},
		"OfVersion1":         {map[string]string{"proc/self/cgroup": "4:memory:/docker/x\n1:cpu:/\n0::/\n", "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "1048576\n"}, 1 << 20},
		"OfVersion1AtRoot":   {map[string]string{"proc/self/cgroup": "4:memory:/docker/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20},
		"NotLimitedVersion1": {map[string]string{"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"Nonsense":           {map[string]string{"proc/self/cgroup": "0\n\n0::/..\n", "sys/fs/cgroup/memory.max": "-5"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := fstest.MapFS{}
			for name, text := range test.files {
				files[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := cgroupMemory(files); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}
