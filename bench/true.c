/* bench/true.c: the least that a command can be; with an argument, the least that a container can hold. Static. */
#include <unistd.h>

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1)
		pause();
	return 0;
}
